//! The recorded rows of both generations, and what is made of rows that are not as they should be.

use std::sync::Arc;

use edgehold_core::{Context, Data, Flow, FunctionError, Pipeline, Transform};
use serde_json::Value;

use super::*;

struct Nothing;

impl Transform for Nothing {
    fn apply(&self, _: &mut Context, data: Data) -> Result<Flow, FunctionError> {
        Ok(Flow::Continue(data))
    }
}

const NOW: Timestamp = Timestamp::from_unix_millis(1_800_000_000_000);
const THEN: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn pipeline(id: &str, steps: &[Step]) -> Arc<Pipeline> {
    let steps = steps.iter().map(|(name, built_in, variant)| PipelineStep {
        name: (*name).to_owned(),
        built_in: (*built_in).to_owned(),
        variant: (*variant).to_owned(),
        function: Arc::new(Nothing),
    });
    let id = PipelineId::try_new(id).unwrap();
    Arc::new(Pipeline::new(id, Vec::new(), steps.collect()))
}

fn set(pipelines: &[&Arc<Pipeline>]) -> PipelineSet {
    PipelineSet {
        pipelines: pipelines.iter().map(|pipeline| (*pipeline).clone()).collect(),
        ..PipelineSet::default()
    }
}

/// Configured name, built-in name, variant.
type Step = (&'static str, &'static str, &'static str);

const POST: Step = ("HTTPExport", "HTTPExport", "post");
const JSON: Step = ("Transform", "Transform", "json");

/// The JSON of a recorded row, as it lay in Redis (v3) or as PostgreSQL answers it (v4).
fn recorded(file: &str) -> Vec<u8> {
    let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect(&path);
    let rows: Value = serde_json::from_str(&text).unwrap();
    let rows = rows.as_array().unwrap();
    let content = match file.starts_with("v3") {
        true => {
            let row = rows.iter().find(|row| row["type"] == "string").unwrap();
            return row["value"].as_str().unwrap().as_bytes().to_vec();
        }
        false => &rows[0]["content"],
    };
    serde_json::to_vec(content).unwrap()
}

fn owner(json: &[u8]) -> ServiceKey {
    let json: Value = serde_json::from_slice(json).unwrap();
    ServiceKey::try_new(json["appServiceKey"].as_str().unwrap()).unwrap()
}

#[test]
fn the_recorded_rows_of_both_generations_come_exactly() {
    let chain = [("Tags", "AddTags", ""), JSON, ("Gzip", "Compress", "gzip"), POST];
    let cases: [(&str, &str, &[Step], u32, u32); 6] = [
        ("row-after-0-retries", "default-pipeline", &[POST], 0, 1),
        ("row-after-2-retries", "default-pipeline", &[POST], 0, 3),
        ("row-compressed-position-3", "default-pipeline", &chain, 3, 1),
        (
            "row-batch",
            "default-pipeline",
            &[JSON, ("Batch", "Batch", "bytimecount"), POST],
            2,
            1,
        ),
        ("row-per-topic-pipeline", "pipe-one", &[JSON, POST], 1, 1),
        (
            "row-mqtt-export",
            "default-pipeline",
            &[JSON, ("MQTTExport", "MQTTExport", "")],
            1,
            1,
        ),
    ];
    for generation in ["v3", "v4"] {
        for (file, id, steps, position, attempts) in cases {
            let file = format!("{generation}/{file}.json");
            let json = recorded(&file);
            let row: Value = serde_json::from_slice(&json).unwrap();
            let pipeline = pipeline(id, steps);
            let object = adopt(&json, &owner(&json), &set(&[&pipeline]), Some(THEN), NOW).expect(&file);

            assert_eq!(
                object.state,
                ObjectState::Failed,
                "{file}: {:?}",
                object.last_error
            );
            assert_eq!(object.id.to_string(), row["id"].as_str().unwrap(), "{file}");
            assert_eq!(object.pipeline_id.as_str(), id, "{file}");
            assert_eq!((object.position, object.attempts), (position, attempts), "{file}");
            assert_eq!(object.version, *pipeline.version(), "{file}");
            assert_eq!(
                object.correlation_id.as_str(),
                row["correlationID"].as_str().unwrap(),
                "{file}"
            );
            let context: BTreeMap<String, String> =
                serde_json::from_value(row["contextData"].clone()).unwrap();
            assert_eq!(object.context, context, "{file}");
            assert!(object.context.contains_key("devicename"), "{file}");
            assert_eq!(
                STANDARD.encode_to_string(&object.payload),
                row["payload"].as_str().unwrap(),
                "{file}"
            );
            assert_eq!(object.created_at, THEN, "{file}");
            assert!(object.is_due(std::time::Duration::from_secs(300), NOW), "{file}");
            assert_eq!(
                (object.reason, object.ended_at, object.last_error),
                (None, None, None),
                "{file}"
            );
        }
    }
}

#[test]
fn a_symbol_of_the_sdk_is_a_built_in_function_whatever_its_receiver() {
    let built_in = |name, variant| GoFunction::BuiltIn { name, variant };
    for (symbol, function) in [
        (
            "github.com/edgexfoundry/app-functions-sdk-go/v3/pkg/transforms.(*HTTPSender).HTTPPut-fm",
            built_in("HTTPExport", Some("put")),
        ),
        (
            "github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.Filter.FilterByDeviceName-fm",
            built_in("FilterByDeviceName", None),
        ),
        (
            "github.com/edgexfoundry/app-functions-sdk-go/v12/pkg/transforms.(*Compression).CompressWithZLIB-fm",
            built_in("Compress", Some("zlib")),
        ),
        (
            "x/vendor/github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.(*AESProtection).Encrypt-fm",
            built_in("Encrypt", Some("aes256")),
        ),
    ] {
        assert_eq!(GoFunction::of_symbol(symbol), function, "{symbol}");
    }
    for symbol in [
        "main.(*HTTPSender).HTTPPost-fm",
        "github.com/me/app-functions-sdk-go/v3/pkg/transforms.(*HTTPSender).HTTPPost-fm",
        "github.com/edgexfoundry/app-functions-sdk-go/vX/pkg/transforms.(*HTTPSender).HTTPPost-fm",
        "github.com/edgexfoundry/app-functions-sdk-go/v3/pkg/transforms.(*HTTPSender).HTTPPatch-fm",
        "github.com/edgexfoundry/app-functions-sdk-go/v3/pkg/mine.(*HTTPSender).HTTPPost-fm",
    ] {
        assert_eq!(
            GoFunction::of_symbol(symbol),
            GoFunction::Foreign(symbol.to_owned())
        );
    }
}

#[test]
fn what_no_pipeline_fits_is_set_aside_whole_with_what_it_wants() {
    let json = recorded("v3/row-per-topic-pipeline.json");
    let row: Value = serde_json::from_slice(&json).unwrap();
    let key = owner(&json);
    let put = ("HTTPExport", "HTTPExport", "put");
    let in_order = "Transform (json), HTTPExport (post)";
    for (pipelines, reason, said) in [
        (set(&[]), ErrorReason::PipelineRemoved, "no pipeline 'pipe-one'"),
        (
            set(&[&pipeline("default-pipeline", &[JSON, POST])]),
            ErrorReason::PipelineRemoved,
            in_order,
        ),
        (
            set(&[&pipeline("pipe-one", &[JSON, put])]),
            ErrorReason::PipelineChanged,
            "has Transform (json), HTTPExport (put)",
        ),
        (
            set(&[&pipeline("pipe-one", &[POST, JSON])]),
            ErrorReason::PipelineChanged,
            in_order,
        ),
        (
            set(&[&pipeline("pipe-one", &[JSON, POST, POST])]),
            ErrorReason::PipelineChanged,
            in_order,
        ),
        (
            set(&[&pipeline("pipe-one", &[JSON])]),
            ErrorReason::PipelineChanged,
            in_order,
        ),
    ] {
        let object = adopt(&json, &key, &pipelines, None, NOW).unwrap();
        assert_eq!(
            (object.state, object.reason),
            (ObjectState::Error, Some(reason)),
            "{said}"
        );
        assert!(is_set_aside(&object));
        assert_eq!(object.version.as_str(), row["version"].as_str().unwrap());
        assert_eq!(object.position, 1);
        assert_eq!((object.created_at, object.ended_at), (NOW, Some(NOW)));
        let told = object.last_error.unwrap();
        assert!(told.contains(said), "{told}");
    }
}

#[test]
fn a_function_of_ones_own_fits_nothing() {
    let key = ServiceKey::try_new("app").unwrap();
    let json = br#"{"id":"5fdd6368-c0c8-4a01-83a0-7db7dc0edac6","appServiceKey":"app","payload":"aGk=","pipelineId":"p",
        "version":"Pipeline-functions:  main.(*Mine).Do-fm"}"#;
    let object = adopt(
        json,
        &key,
        &set(&[&pipeline("p", &[("Mine", "Mine", "")])]),
        None,
        NOW,
    )
    .unwrap();
    assert_eq!(object.reason, Some(ErrorReason::PipelineChanged));
    assert!(object.last_error.unwrap().contains("main.(*Mine).Do-fm"));
    assert_eq!(object.payload.as_ref(), b"hi");
}

#[test]
fn what_is_no_object_is_named_by_its_key() {
    let key = ServiceKey::try_new("app").unwrap();
    let whole = r#"{"id":"5fdd6368-c0c8-4a01-83a0-7db7dc0edac6","appServiceKey":"app","payload":"aGk=","pipelineId":"p","pipelinePosition":1}"#;
    for (from, to, said) in [
        (r#""id":"5"#, r#""id":"x"#, "'id': "),
        (r#""id":"#, r#""other":"#, "'id': "),
        (r#""payload":"aGk="#, r#""payload":"%"#, "'payload': "),
        (r#""pipelineId":"#, r#""other":"#, "'pipelineId': "),
        (
            r#""pipelinePosition":1"#,
            r#""pipelinePosition":-1"#,
            "'pipelinePosition': ",
        ),
        (r#":"app""#, r#":"other""#, "belongs to the service 'other'"),
        ("}", "", "it is not the JSON"),
    ] {
        let broken = whole.replacen(from, to, 1);
        assert_ne!(broken, whole, "{from}");
        let error = adopt(broken.as_bytes(), &key, &PipelineSet::default(), None, NOW).expect_err(from);
        assert!(error.to_string().contains(said), "{error}");
    }
}
