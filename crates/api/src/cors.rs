//! Requests from pages of other origins (`Service.CORSConfiguration`, contract: configuration §6.3).
//!
//! Every page is told the same one origin, whatever its own: the browser does the comparing.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use edgehold_config::configuration::Cors;

/// What a request says about where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crossing {
    has_origin: bool,
    /// It names the method of another request.
    asks_for_method: bool,
    /// It asks whether that request may be made.
    is_preflight: bool,
}

impl Crossing {
    pub(crate) fn of(request: &Request) -> Self {
        let says = |name: HeaderName| request.headers().get(name).is_some_and(|value| !value.is_empty());
        let asks_for_method = says(header::ACCESS_CONTROL_REQUEST_METHOD);
        Self {
            has_origin: says(header::ORIGIN),
            asks_for_method,
            is_preflight: asks_for_method && request.method() == Method::OPTIONS,
        }
    }

    /// The answer with what the browser needs to know. A preflight is 200 whatever it is for, as in EdgeX; what may be done
    /// is said by the fields, and without CORS there are none.
    pub(crate) fn answer(self, settings: &Cors, response: Response) -> Response {
        let mut response = match self.is_preflight {
            true => with_allow(StatusCode::OK.into_response(), &response),
            false => response,
        };
        if settings.enabled && self.has_origin {
            self.add_fields(settings, response.headers_mut());
        }
        response
    }

    fn add_fields(self, settings: &Cors, fields: &mut HeaderMap) {
        let mut set = |name: HeaderName, text: &str| {
            if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
                fields.insert(name, value);
            }
        };
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, &settings.allowed_origin);
        if settings.allow_credentials {
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        set(header::VARY, "Origin");
        if !self.is_preflight {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &settings.expose_headers);
        }
        if self.asks_for_method {
            set(header::ACCESS_CONTROL_ALLOW_METHODS, &settings.allowed_methods);
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, &settings.allowed_headers);
            let seconds = settings.max_age.as_secs();
            if seconds > 0 {
                set(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
            }
        }
    }
}

fn with_allow(mut response: Response, of: &Response) -> Response {
    if let Some(allow) = of.headers().get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}
