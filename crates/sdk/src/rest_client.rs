//! The REST interface of the service that an invocation describes, for the commands beside it.
//!
//! Over https (`HttpServer/Protocol`) it has to show a certificate for `Service/Host` that the system trusts. The environment
//! says otherwise:
//!
//! | variable | meaning |
//! | --- | --- |
//! | `EDGEHOLD_CACERT` | PEM file of trusted authorities, instead of the system's |
//! | `EDGEHOLD_TLS_SERVER_NAME` | the name asked for in the handshake and expected in the certificate, instead of `Service/Host` |
//! | `EDGEHOLD_TLS_VERIFY` | `false`: any certificate will do |

use std::{collections::BTreeMap, fs, net::IpAddr, time::Duration};

use edgehold_clients::{ApplicationClient, CallError, ServiceTls};
use edgehold_config::Configuration;
use edgehold_core::parse_go_bool;

const AUTHORITIES: &str = "EDGEHOLD_CACERT";
const SERVER_NAME: &str = "EDGEHOLD_TLS_SERVER_NAME";
const VERIFY: &str = "EDGEHOLD_TLS_VERIFY";

/// Why a service cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestClientError {
    /// The file of trusted authorities cannot be read.
    #[error("{AUTHORITIES}: {path} cannot be read")]
    Authorities {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The address or the authorities are none.
    #[error("the address of the service or what is to be trusted there cannot be used")]
    Client(#[from] CallError),
}

/// Asks the service with this configuration. A call ends when nothing has come for `limit`.
///
/// # Errors
/// [`RestClientError`].
pub(crate) fn rest_client(
    configuration: &Configuration,
    environment: &BTreeMap<String, String>,
    limit: Duration,
) -> Result<ApplicationClient, RestClientError> {
    let service = &configuration.service;
    let tls = match configuration.http_server.protocol == "https" {
        true => Some(tls(&service.host, environment)?),
        false => None,
    };
    let host = match is_any(service.bind_host()) {
        true => "127.0.0.1",
        false => service.bind_host(),
    };
    Ok(ApplicationClient::new(host, service.port, tls.as_ref(), limit)?)
}

fn tls(host: &str, environment: &BTreeMap<String, String>) -> Result<ServiceTls, RestClientError> {
    let variable = |name: &str| environment.get(name).filter(|text| !text.is_empty());
    let authorities = variable(AUTHORITIES).map(|path| {
        fs::read_to_string(path).map_err(|source| RestClientError::Authorities {
            path: path.clone(),
            source,
        })
    });
    let verify = variable(VERIFY).and_then(|text| {
        let verify = parse_go_bool(text);
        if verify.is_none() {
            tracing::warn!("{VERIFY} is neither true nor false: it is ignored");
        }
        verify
    });
    let host = (!is_any(host)).then(|| host.to_owned());
    Ok(ServiceTls {
        server_name: variable(SERVER_NAME).cloned().or(host),
        authorities: authorities.transpose()?,
        any_certificate: verify == Some(false),
    })
}

/// Whether a service that listens there listens at every address.
fn is_any(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse();
    host.is_empty() || address.is_ok_and(|address: IpAddr| address.is_unspecified())
}
