//! The configuration of the service in the demo: an ordinary file, with the ports filled in.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use edgehold::Invocation;

use super::{SERVICE_KEY, devices::HEARTBEAT};

const CONFIGURATION: &str = r#"# Written anew at each start of the demo.
Writable:
  LogLevel: INFO
  StoreAndForward:
    Enabled: true         # keep what could not be exported ...
    RetryInterval: 2s     # ... try it again this often ...
    MaxRetryCount: 0      # ... and without end
  Pipeline:
    ExecutionOrder: FilterByDeviceName, HTTPExport
    Functions:
      FilterByDeviceName:
        Parameters:
          DeviceNames: <heartbeat>
          FilterOut: "true"
      HTTPExport:
        Parameters:
          Method: post
          MimeType: application/json
          Url: <url>
          PersistOnError: "true"

Service:
  Host: 127.0.0.1
  Port: 0                 # any free one

MessageBus:
  Type: mqtt
  Protocol: tcp
  Host: 127.0.0.1
  Port: <broker-port>
  AuthMode: none
  BaseTopicPrefix: edgex
  Optional:
    ClientId: app-demo
    Qos: "1"              # an event is acknowledged when it is exported, filtered or stored
    KeepAlive: "10"

Trigger:
  Type: edgex-messagebus
  SubscribeTopics: events/device/#

Database:
  Type: sqlite            # <service key>.db in the data folder
"#;

/// Writes the file into `folder` and answers with its path.
pub(super) fn write(folder: &Path, broker_port: u16, url: &str) -> Result<PathBuf> {
    let text = CONFIGURATION
        .replace("<heartbeat>", HEARTBEAT)
        .replace("<url>", url)
        .replace("<broker-port>", &broker_port.to_string());
    let file = folder.join("configuration.yaml");
    std::fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(file)
}

/// How the service is started: from files alone, whatever the environment of this process says.
pub(super) fn invocation(folder: &Path, data_dir: &Path) -> Result<Invocation> {
    let flag = |name: &str, value: &Path| {
        let mut flag = OsString::from(name);
        flag.push(value);
        flag
    };
    let arguments = [
        flag("-cd=", folder),
        flag("--data-dir=", data_dir),
        OsString::from(format!("-sk={SERVICE_KEY}")),
    ];
    let environment =
        [("EDGEX_SECURITY_SECRET_STORE", "false")].map(|(name, value)| (name.into(), value.into()));
    Invocation::new(arguments, environment).context("the service cannot be called")
}
