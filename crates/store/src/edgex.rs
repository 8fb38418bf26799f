//! What EdgeX's own Store and Forward left behind, read as objects of ours.
//!
//! Owns the JSON that the original stores (the same in Redis and PostgreSQL), and what its `version` means here. Does not
//! own where that JSON lies, nor what becomes of it there.
//!
//! | key | type | absent |
//! | --- | --- | --- |
//! | `id` | UUID | an error |
//! | `appServiceKey` | text | an error |
//! | `payload` | base64, the bytes that the export tried to send | no bytes |
//! | `retryCount` | failed retries, the first attempt not counted | 0 |
//! | `pipelineId` | text | an error |
//! | `pipelinePosition` | zero-based place of the function that failed | 0 |
//! | `version` | `Pipeline-functions:  <Go symbol> <Go symbol> …` | no function |
//! | `correlationID` | text | empty |
//! | `contextData` | object of texts | none |
//!
//! A version names functions by their Go symbols, so only those of the SDK can be known again ([`GoFunction`]), and not
//! under which name they were configured. When a pipeline has several functions of one kind, such as `HTTPExport1` and
//! `HTTPExport2` with one method, the saved position alone says which one is meant: as with the original itself, two that
//! have changed places since cannot be told apart.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use base64_simd::STANDARD;
use edgehold_core::{
    CorrelationId, DataKind, ErrorReason, ObjectState, PipelineId, PipelineSet, PipelineStep,
    PipelineVersion, ServiceKey, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use serde::Deserialize;
use uuid::Uuid;

use crate::{ListRequest, ObjectFilter};

/// How the version of each object of the original begins.
const VERSION: &str = "Pipeline-functions:";

/// Methods of the SDK's `pkg/transforms`, the built-in function that is each of them, and its variant; none: whichever.
const METHODS: [(&str, &str, Option<&str>); 19] = [
    ("FilterByProfileName", "FilterByProfileName", None),
    ("FilterByDeviceName", "FilterByDeviceName", None),
    ("FilterBySourceName", "FilterBySourceName", None),
    ("FilterByResourceName", "FilterByResourceName", None),
    ("TransformToXML", "Transform", Some("xml")),
    ("TransformToJSON", "Transform", Some("json")),
    ("CompressWithGZIP", "Compress", Some("gzip")),
    ("CompressWithZLIB", "Compress", Some("zlib")),
    ("Encrypt", "Encrypt", Some("aes256")),
    ("HTTPPost", "HTTPExport", Some("post")),
    ("HTTPPut", "HTTPExport", Some("put")),
    ("MQTTSend", "MQTTExport", None),
    ("Batch", "Batch", None),
    ("SetResponseData", "SetResponseData", None),
    ("Evaluate", "JSONLogic", None),
    ("AddTags", "AddTags", None),
    ("Wrap", "WrapIntoEvent", None),
    ("WrapIntoEvent", "WrapIntoEvent", None),
    ("ToLineProtocol", "ToLineProtocol", None),
];

/// Why something is no object of the original's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgexError {
    /// It is not JSON, or a value has the wrong type.
    #[error("it is not the JSON of a stored object: {0}")]
    Json(#[from] serde_json::Error),
    /// A value says nothing.
    #[error("'{key}': {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// It is somebody else's.
    #[error("it belongs to the service '{0}'")]
    OtherService(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    app_service_key: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: Option<Cow<'a, str>>,
    retry_count: Option<i64>,
    #[serde(borrow)]
    pipeline_id: Option<Cow<'a, str>>,
    pipeline_position: Option<i64>,
    #[serde(borrow)]
    version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "correlationID")]
    correlation_id: Option<Cow<'a, str>>,
    context_data: Option<BTreeMap<String, String>>,
}

/// A function of the original, as far as its Go symbol says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GoFunction {
    /// One of the SDK's, which is a built-in function here.
    BuiltIn {
        /// Its name.
        name: &'static str,
        /// The method, algorithm or type it was built with; none when the symbol does not say.
        variant: Option<&'static str>,
    },
    /// Somebody's own: the symbol.
    Foreign(String),
}

impl GoFunction {
    /// The function of a symbol such as
    /// `github.com/edgexfoundry/app-functions-sdk-go/v4/pkg/transforms.(*HTTPSender).HTTPPost-fm`.
    pub fn of_symbol(symbol: &str) -> Self {
        let of_sdk = || {
            let (module, method) = symbol.split_once("/pkg/transforms.")?;
            let (owner, version) = module.rsplit_once("/v")?;
            let is_number = !version.is_empty() && version.bytes().all(|digit| digit.is_ascii_digit());
            if !is_number || !owner.ends_with("edgexfoundry/app-functions-sdk-go") {
                return None;
            }
            let method = method.rsplit('.').next()?;
            let method = method.strip_suffix("-fm").unwrap_or(method);
            METHODS.iter().find(|(known, _, _)| *known == method)
        };
        match of_sdk() {
            Some(&(_, name, variant)) => Self::BuiltIn { name, variant },
            None => Self::Foreign(symbol.to_owned()),
        }
    }

    /// Whether a function of ours is this one.
    pub fn is(&self, step: &PipelineStep) -> bool {
        match self {
            Self::BuiltIn { name, variant } => {
                step.built_in == *name && variant.is_none_or(|variant| step.variant == variant)
            }
            Self::Foreign(_) => false,
        }
    }
}

impl fmt::Display for GoFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn { name, variant: None } => f.write_str(name),
            Self::BuiltIn {
                name,
                variant: Some(variant),
            } => write!(f, "{name} ({variant})"),
            Self::Foreign(symbol) => f.write_str(symbol),
        }
    }
}

/// The functions that a version of the original names, in order.
pub fn functions(version: &str) -> Vec<GoFunction> {
    let symbols = version.strip_prefix(VERSION).unwrap_or(version);
    symbols.split_whitespace().map(GoFunction::of_symbol).collect()
}

/// Whether an object is one that [`adopt`] has set aside, still as it was: a pipeline that has its functions may take it.
pub fn is_set_aside(object: &StoredObject) -> bool {
    object.state == ObjectState::Error && object.version.as_str().starts_with(VERSION)
}

/// The pipeline that receipts name, which there is not.
const RECEIPTS: &str = "edgehold:receipts";

/// What says that these objects of the original's have been appended, in the same transaction, and are still to be removed
/// there. It stands in the history and ends with time itself: nobody attempts it, gives it up or sweeps it.
pub fn receipt(service_key: &ServiceKey, ids: &[StoredObjectId], now: Timestamp) -> StoredObject {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    StoredObject {
        id: StoredObjectId::from_uuid(Uuid::new_v4()),
        seq: 0,
        service_key: service_key.clone(),
        pipeline_id: receipts(),
        position: 0,
        version: PipelineVersion::from_stored(""),
        correlation_id: CorrelationId::new(""),
        context: BTreeMap::new(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: ids.join("\n").into(),
        attempts: 0,
        state: ObjectState::Success,
        created_at: now,
        last_attempt_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
        ended_at: Some(Timestamp::from_unix_millis(i64::MAX)),
        crashes: 0,
    }
}

fn receipts() -> PipelineId {
    PipelineId::try_new(RECEIPTS).expect("it is not blank")
}

/// Asks a store for its receipts, at most so many behind a place.
pub fn list_receipts(after_seq: i64, limit: usize) -> ListRequest {
    ListRequest {
        states: vec![ObjectState::Success],
        filter: ObjectFilter {
            pipeline_ids: vec![receipts()],
            ..ObjectFilter::default()
        },
        after_seq,
        limit,
    }
}

/// The objects that a receipt is for.
pub fn receipted(receipt: &StoredObject) -> Vec<StoredObjectId> {
    let ids = receipt.payload.split(|byte| *byte == b'\n');
    ids.filter_map(|id| std::str::from_utf8(id).ok()?.parse().ok())
        .collect()
}

/// Makes an object of the original one of ours.
///
/// When its pipeline has exactly the functions it wants, the object is failed, due at once, and carries the version of
/// that pipeline. Else it is set aside whole: in state error, reason `pipeline_removed` or `pipeline_changed`, under the
/// version it had; what it wants is its `last_error`.
///
/// `created` is when the original stored it, where that is known; `now` stands in for it.
///
/// # Errors
/// [`EdgexError`]: nothing was made of it.
pub fn adopt(
    json: &[u8],
    service_key: &ServiceKey,
    pipelines: &PipelineSet,
    created: Option<Timestamp>,
    now: Timestamp,
) -> Result<StoredObject, EdgexError> {
    let row: Row<'_> = serde_json::from_slice(json)?;
    let owner = row.app_service_key.unwrap_or_default();
    if owner != service_key.as_str() {
        return Err(EdgexError::OtherService(owner.into_owned()));
    }
    let id: StoredObjectId = valid("id", row.id.unwrap_or_default().parse())?;
    let pipeline_id = valid(
        "pipelineId",
        PipelineId::try_new(&row.pipeline_id.unwrap_or_default()),
    )?;
    let position = valid(
        "pipelinePosition",
        u32::try_from(row.pipeline_position.unwrap_or(0)),
    )?;
    let payload = row.payload.unwrap_or_default();
    let payload = valid("payload", STANDARD.decode_to_vec(payload.as_bytes()))?;
    let retries = u32::try_from(row.retry_count.unwrap_or(0).max(0)).unwrap_or(u32::MAX);
    let version = row.version.unwrap_or_default();
    let object = StoredObject {
        id,
        seq: 0,
        service_key: service_key.clone(),
        pipeline_id,
        position,
        version: PipelineVersion::from_stored(""),
        correlation_id: CorrelationId::new(&row.correlation_id.unwrap_or_default()),
        context: row.context_data.unwrap_or_default(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: payload.into(),
        attempts: retries.saturating_add(1),
        state: ObjectState::Failed,
        created_at: created.unwrap_or(now),
        last_attempt_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
        ended_at: None,
        crashes: 0,
    };
    Ok(match fitting(&object, &version, pipelines) {
        Ok(version) => StoredObject { version, ..object },
        Err((reason, wanted)) => StoredObject {
            // What a store keeps of a version must not be empty for it to be known again.
            version: PipelineVersion::from_stored(match version.starts_with(VERSION) {
                true => version.into_owned(),
                false => format!("{VERSION} {version}"),
            }),
            state: ObjectState::Error,
            reason: Some(reason),
            last_error: Some(wanted),
            ended_at: Some(now),
            ..object
        },
    })
}

/// The version of the pipeline that the object can go on in; else why there is none, and what it wants.
fn fitting(
    object: &StoredObject,
    version: &str,
    pipelines: &PipelineSet,
) -> Result<PipelineVersion, (ErrorReason, String)> {
    let wanted = functions(version);
    let listed = |functions: Vec<String>| match functions.is_empty() {
        true => "none".to_owned(),
        false => functions.join(", "),
    };
    let told = || listed(wanted.iter().map(ToString::to_string).collect());
    let Some(pipeline) = pipelines.get(&object.pipeline_id) else {
        let told = format!(
            "imported from EdgeX: there is no pipeline '{}', in which it wants the functions {}",
            object.pipeline_id,
            told()
        );
        return Err((ErrorReason::PipelineRemoved, told));
    };
    let steps = pipeline.steps();
    let is_inside = usize::try_from(object.position).is_ok_and(|position| position < steps.len());
    let is_same =
        steps.len() == wanted.len() && wanted.iter().zip(steps).all(|(function, step)| function.is(step));
    if is_inside && is_same {
        return Ok(pipeline.version().clone());
    }
    let has = steps.iter().map(|step| match step.variant.as_str() {
        "" => step.built_in.clone(),
        variant => format!("{} ({variant})", step.built_in),
    });
    let told = format!(
        "imported from EdgeX: at position {} it wants the functions {}; the pipeline '{}' has {}",
        object.position,
        told(),
        object.pipeline_id,
        listed(has.collect())
    );
    Err((ErrorReason::PipelineChanged, told))
}

fn valid<T, E: fmt::Display>(key: &'static str, value: Result<T, E>) -> Result<T, EdgexError> {
    value.map_err(|error| EdgexError::Value {
        key,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
