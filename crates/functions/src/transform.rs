//! `Transform`: an event as text.

use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

use crate::{input, xml};

/// `Transform`, whose `Type` is `json` or `xml`, any case.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    match parameters.required("Type")? {
        text if text.eq_ignore_ascii_case("json") => Ok(BuiltFunction::with_variant(ToJson, "json")),
        text if text.eq_ignore_ascii_case("xml") => Ok(BuiltFunction::with_variant(ToXml, "xml")),
        text => Err(parameters.invalid("Type", format!("'{text}', which is neither 'json' nor 'xml'"))),
    }
}

/// The JSON of the event in the service's generation; the response becomes `application/json`.
struct ToJson;

impl Transform for ToJson {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let event = input::event("Transform", ctx, data)?;
        let json = String::from_utf8(event.to_json(ctx.generation())).expect("JSON is written as UTF-8");
        ctx.set_response_content_type("application/json");
        Ok(Flow::Continue(Data::Text(json)))
    }
}

/// The XML of the event; the response becomes `application/xml`.
struct ToXml;

impl Transform for ToXml {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        let event = input::event("Transform", ctx, data)?;
        let xml = xml::to_xml(&event).map_err(|e| {
            let pipeline = ctx.pipeline_id();
            FunctionError::permanent(format!("in pipeline '{pipeline}' the event has no XML form"))
                .with_source(e)
        })?;
        ctx.set_response_content_type("application/xml");
        Ok(Flow::Continue(Data::Text(xml)))
    }
}
