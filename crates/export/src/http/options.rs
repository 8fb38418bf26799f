//! The parameters of `HTTPExport`, checked once.

use std::{collections::BTreeMap, time::Duration};

use edgehold_core::{InvalidFunction, Parameters};
use reqwest::{
    Method,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TRAILER,
        TRANSFER_ENCODING,
    },
};

use super::status::StatusSet;
use crate::duration::TimeLimit;

const DEFAULT_MIME_TYPE: &str = "application/json";
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What one `HTTPExport` is configured to do. The parameters are told in the table of the `http` module.
pub(super) struct HttpExportOptions {
    pub(super) method: Method,
    /// With its `{placeholders}`; whether it is a URL shows only when they are replaced.
    pub(super) url: String,
    pub(super) persist_on_error: bool,
    pub(super) continue_on_send_error: bool,
    pub(super) return_input_data: bool,
    pub(super) secret_header: Option<SecretHeader>,
    /// `Content-Type` and `HttpRequestHeaders`.
    pub(super) headers: HeaderMap,
    pub(super) gzip: bool,
    /// Whether each request says by which key it is known.
    pub(super) idempotency_key: bool,
    pub(super) connect_timeout: Duration,
    pub(super) request_timeout: Duration,
    pub(super) skip_verify: bool,
    /// The secret with certificates.
    pub(super) tls_secret_name: Option<String>,
    pub(super) permanent_status: StatusSet,
    /// Why no message can be sent. As in EdgeX that is no reason not to load: it fails each message.
    pub(super) contradiction: Option<&'static str>,
}

/// A header whose value is the key of a secret.
#[derive(Debug)]
pub(super) struct SecretHeader {
    pub(super) header: HeaderName,
    pub(super) name: String,
    pub(super) key: String,
}

impl HttpExportOptions {
    pub(super) fn from_parameters(parameters: &Parameters) -> Result<Self, InvalidFunction> {
        let persist_on_error = parameters.bool("PersistOnError", false)?;
        let continue_on_send_error = parameters.bool("ContinueOnSendError", false)?;
        let return_input_data = parameters.bool("ReturnInputData", false)?;
        let (secret_header, secret_contradiction) = secret_header(parameters)?;
        let contradiction = if continue_on_send_error && persist_on_error {
            Some("persistOnError & continueOnSendError can not both be set to true for HTTP Export")
        } else if continue_on_send_error && !return_input_data {
            Some("continueOnSendError can only be set to true together with returnInputData for HTTP Export")
        } else {
            secret_contradiction
        };
        let gzip = gzip(parameters)?;
        let mut headers = headers(parameters)?;
        if gzip {
            if headers.contains_key(CONTENT_ENCODING) {
                let problem = "'gzip' although HttpRequestHeaders has a Content-Encoding of its own";
                return Err(parameters.invalid("Compression", problem));
            }
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let time_limit = |name, default| -> Result<Duration, InvalidFunction> {
            Ok(parameters
                .parsed::<TimeLimit>(name)?
                .map_or(default, |limit| limit.0))
        };
        Ok(Self {
            method: method(parameters)?,
            url: parameters.required("Url")?.to_owned(),
            persist_on_error,
            continue_on_send_error,
            return_input_data,
            secret_header,
            headers,
            gzip,
            idempotency_key: parameters.bool("IdempotencyKey", true)?,
            skip_verify: parameters.bool("SkipVerify", false)?,
            tls_secret_name: Some(parameters.text("TlsSecretName").to_owned())
                .filter(|name| !name.is_empty()),
            connect_timeout: time_limit("ConnectTimeout", DEFAULT_CONNECT_TIMEOUT)?,
            request_timeout: time_limit("RequestTimeout", DEFAULT_REQUEST_TIMEOUT)?,
            permanent_status: parameters.parsed("PermanentStatus")?.unwrap_or_default(),
            contradiction,
        })
    }
}

fn method(parameters: &Parameters) -> Result<Method, InvalidFunction> {
    match parameters.required("Method")? {
        text if text.eq_ignore_ascii_case("post") => Ok(Method::POST),
        text if text.eq_ignore_ascii_case("put") => Ok(Method::PUT),
        text => Err(parameters.invalid("Method", format!("'{text}', which is neither 'post' nor 'put'"))),
    }
}

fn gzip(parameters: &Parameters) -> Result<bool, InvalidFunction> {
    match parameters.text("Compression") {
        "" => Ok(false),
        text if text.eq_ignore_ascii_case("none") => Ok(false),
        text if text.eq_ignore_ascii_case("gzip") => Ok(true),
        text => Err(parameters.invalid(
            "Compression",
            format!("'{text}', which is neither 'gzip' nor 'none'"),
        )),
    }
}

/// All three parameters, or none. As in EdgeX two of three are refused here, and one of three fails each message.
fn secret_header(
    parameters: &Parameters,
) -> Result<(Option<SecretHeader>, Option<&'static str>), InvalidFunction> {
    let names = ["HeaderName", "SecretName", "SecretValueKey"];
    let [header, name, key] = names.map(|parameter| parameters.text(parameter));
    let blank: Vec<_> = names
        .into_iter()
        .filter(|parameter| parameters.text(parameter).is_empty())
        .collect();
    match blank[..] {
        [] => {
            let header = header.parse().map_err(|_| {
                parameters.invalid("HeaderName", format!("'{header}', which is not a header name"))
            })?;
            let (name, key) = (name.to_owned(), key.to_owned());
            Ok((Some(SecretHeader { header, name, key }), None))
        }
        [missing] => Err(parameters.invalid(
            missing,
            "blank although the other two of HeaderName, SecretName and SecretValueKey are set",
        )),
        [_, _] => Ok((
            None,
            Some("HeaderName, SecretName and SecretValueKey must be set together for HTTP Export"),
        )),
        _ => Ok((None, None)),
    }
}

fn headers(parameters: &Parameters) -> Result<HeaderMap, InvalidFunction> {
    let mime_type = match parameters.text("MimeType") {
        "" => DEFAULT_MIME_TYPE,
        text => text,
    };
    let mime_type = HeaderValue::from_str(mime_type).map_err(|_| {
        parameters.invalid(
            "MimeType",
            format!("{mime_type:?}, which cannot stand in a header"),
        )
    })?;
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, mime_type)]);
    for (name, value) in request_headers(parameters)? {
        // Values may be secret: they are not shown.
        let invalid = |part| {
            parameters.invalid(
                "HttpRequestHeaders",
                format!("wrong: {name:?} has no valid header {part}"),
            )
        };
        let name = HeaderName::try_from(&name).map_err(|_| invalid("name"))?;
        let value = HeaderValue::from_str(&value).map_err(|_| invalid("value"))?;
        // What frames the message follows from it, as in Go's client.
        if ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TRAILER].contains(&name) {
            headers.insert(name, value);
        }
    }
    Ok(headers)
}

fn request_headers(parameters: &Parameters) -> Result<BTreeMap<String, String>, InvalidFunction> {
    match parameters.text("HttpRequestHeaders") {
        "" => Ok(BTreeMap::new()),
        // The parser's message quotes what it found, which may be secret: only the place is shown.
        text => serde_json::from_str(text).map_err(|e| {
            let place = format!("line {} column {}", e.line(), e.column());
            parameters.invalid(
                "HttpRequestHeaders",
                format!("not a JSON object of texts ({place})"),
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: [(&str, &str); 2] = [("Method", "post"), ("Url", "http://host/")];

    fn options(more: &[(&str, &str)]) -> Result<HttpExportOptions, InvalidFunction> {
        let all = MINIMAL.iter().chain(more).copied();
        HttpExportOptions::from_parameters(&Parameters::new("HTTPExport", all))
    }

    #[track_caller]
    fn refusal(more: &[(&str, &str)]) -> String {
        options(more).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn every_parameter_but_two_has_a_default() {
        let options = options(&[]).unwrap();
        assert_eq!(options.method, Method::POST);
        assert_eq!(options.url, "http://host/");
        assert!(!options.persist_on_error && !options.continue_on_send_error && !options.return_input_data);
        assert!(options.secret_header.is_none());
        assert_eq!(options.headers.len(), 1);
        assert_eq!(options.headers[CONTENT_TYPE], "application/json");
        assert_eq!(options.connect_timeout, Duration::from_secs(5));
        assert_eq!(options.request_timeout, Duration::from_secs(30));
        assert_eq!(options.contradiction, None);
    }

    #[test]
    fn the_method_and_the_url_are_required() {
        for missing in ["Method", "Url"] {
            let left = MINIMAL.into_iter().filter(|(name, _)| *name != missing);
            let error = HttpExportOptions::from_parameters(&Parameters::new("HTTPExport", left)).map(|_| ());
            let parameter = missing.to_owned();
            let function = "HTTPExport".to_owned();
            assert_eq!(
                error,
                Err(InvalidFunction::MissingParameter { function, parameter })
            );
        }
    }

    #[test]
    fn the_method_is_post_or_put_in_any_case() {
        assert_eq!(options(&[("Method", " PuT ")]).unwrap().method, Method::PUT);
        assert_eq!(
            refusal(&[("Method", "get")]),
            "function 'HTTPExport': parameter 'Method' is 'get', which is neither 'post' nor 'put'"
        );
    }

    #[test]
    fn a_switch_that_is_no_boolean_is_refused_by_name() {
        for name in [
            "PersistOnError",
            "ContinueOnSendError",
            "ReturnInputData",
            "SkipVerify",
            "IdempotencyKey",
        ] {
            assert!(refusal(&[(name, "yes")]).contains(name));
        }
    }

    #[test]
    fn time_limits_are_go_durations() {
        let options = options(&[("ConnectTimeout", "250ms"), ("RequestTimeout", "1m30s")]).unwrap();
        assert_eq!(options.connect_timeout, Duration::from_millis(250));
        assert_eq!(options.request_timeout, Duration::from_secs(90));
        assert_eq!(
            refusal(&[("RequestTimeout", "30")]),
            "function 'HTTPExport': parameter 'RequestTimeout' is '30': \
             not a duration such as '300ms', '5s' or '1m30s'"
        );
        assert!(refusal(&[("ConnectTimeout", "0s")]).contains("ConnectTimeout"));
    }

    #[test]
    fn two_of_the_three_secret_parameters_name_the_third() {
        let error = refusal(&[("SecretName", "http"), ("SecretValueKey", "token")]);
        assert!(error.contains("parameter 'HeaderName' is blank"), "{error}");
    }

    #[test]
    fn one_of_the_three_secret_parameters_loads_and_fails_each_message() {
        for name in ["HeaderName", "SecretName", "SecretValueKey"] {
            let contradiction = options(&[(name, "x")]).unwrap().contradiction.unwrap();
            assert!(contradiction.contains("must be set together"), "{contradiction}");
        }
    }

    #[test]
    fn contradictory_switches_load_and_fail_each_message() {
        let both = options(&[
            ("PersistOnError", "true"),
            ("ContinueOnSendError", "true"),
            ("ReturnInputData", "true"),
        ]);
        assert!(
            both.unwrap()
                .contradiction
                .unwrap()
                .contains("can not both be set to true")
        );
        let alone = options(&[("ContinueOnSendError", "true")]);
        assert!(
            alone
                .unwrap()
                .contradiction
                .unwrap()
                .contains("together with returnInputData")
        );
    }

    #[test]
    fn request_headers_replace_the_content_type_but_not_the_framing() {
        let json = r#"{"content-type":"text/csv","X-Extra":"e1","Content-Length":"1","Host":"other"}"#;
        let headers = options(&[("MimeType", "text/plain"), ("HttpRequestHeaders", json)])
            .unwrap()
            .headers;
        assert_eq!(headers[CONTENT_TYPE], "text/csv");
        assert_eq!(headers["x-extra"], "e1");
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn compression_is_gzip_or_none() {
        let encoding = |value| {
            options(&[("Compression", value)])
                .unwrap()
                .headers
                .get(CONTENT_ENCODING)
                .cloned()
        };
        assert_eq!(encoding("GZip").unwrap(), "gzip");
        assert_eq!((encoding("none"), encoding("")), (None, None));
        assert!(refusal(&[("Compression", "zlib")]).contains("neither 'gzip' nor 'none'"));
        let own = ("HttpRequestHeaders", r#"{"content-encoding":"br"}"#);
        assert!(refusal(&[("Compression", "gzip"), own]).contains("Content-Encoding"));
    }

    #[test]
    fn request_headers_that_cannot_be_sent_are_refused_without_their_values() {
        for json in [
            r#"{"X-Key":"sesame\n"}"#,
            r#"{"X Key":"sesame"}"#,
            r#"["sesame"]"#,
            r#"{"X-Key":"sesame""#,
            r#"{"X-Key":["sesame"]}"#,
        ] {
            let error = refusal(&[("HttpRequestHeaders", json)]);
            assert!(error.contains("HttpRequestHeaders"), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
    }
}
