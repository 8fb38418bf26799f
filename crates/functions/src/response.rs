//! `SetResponseData`: what the trigger answers with.

use edgehold_core::{
    BuiltFunction, Context, Data, Flow, FunctionError, InvalidFunction, Parameters, Transform,
};

/// `SetResponseData`; without `ResponseContentType` the response keeps the content type earlier functions gave it.
pub(crate) fn build(parameters: &Parameters) -> Result<BuiltFunction, InvalidFunction> {
    Ok(BuiltFunction::new(SetResponseData {
        content_type: parameters.text("ResponseContentType").to_owned(),
    }))
}

struct SetResponseData {
    content_type: String,
}

impl Transform for SetResponseData {
    fn apply(&self, ctx: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        ctx.set_response_data(data.to_bytes(ctx.generation()));
        if !self.content_type.is_empty() {
            ctx.set_response_content_type(&self.content_type);
        }
        Ok(Flow::Continue(data))
    }
}
