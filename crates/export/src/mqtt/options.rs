//! The parameters of `MQTTExport`, checked once.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use edgehold_core::{InvalidFunction, Parameters};
use edgehold_mqtt::{AuthMode, BrokerAddress, LastWill, Qos};

use super::connection::ExportConnection;
use crate::duration::{Period, TimeLimit};

/// Those of EdgeX's MQTT library.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(30);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// That of EdgeX's MQTT library is ten minutes, in which a broker that is back would be waited for.
const DEFAULT_MAX_RECONNECT_INTERVAL: Duration = Duration::from_secs(2);

/// What one `MQTTExport` is configured to do. The parameters are told in the table of the `mqtt` module.
#[derive(Debug)]
pub(super) struct MqttExportOptions {
    pub(super) connection: ExportConnection,
    /// `BrokerAddress` as it may be shown.
    pub(super) shown_address: String,
    /// With its `{placeholders}`.
    pub(super) topic: String,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) persist_on_error: bool,
    pub(super) pre_connect: bool,
}

impl MqttExportOptions {
    pub(super) fn from_parameters(parameters: &Parameters) -> Result<Self, InvalidFunction> {
        // Without effect here, but what is wrong is wrong.
        parameters.bool("AutoReconnect", false)?;
        parameters.parsed::<i64>("PreConnectRetryCount")?;
        parameters.parsed::<Period>("PreConnectRetryInterval")?;
        let address = parameters.required("BrokerAddress")?;
        let shown_address = without_password(address);
        let address = BrokerAddress::parse(address)
            .map_err(|e| parameters.invalid("BrokerAddress", format!("of no use: {e}")))?;
        let time = |name: &str, default: Duration| match parameters.parsed::<TimeLimit>(name)? {
            None => Ok::<_, InvalidFunction>(default),
            Some(TimeLimit(limit)) => Ok(limit),
        };
        let connection = ExportConnection {
            address,
            client_id: parameters.required("ClientId")?.to_owned(),
            auth_mode: parameters.parsed::<AuthMode>("AuthMode")?.unwrap_or_default(),
            secret_name: parameters.text("SecretName").to_owned(),
            skip_verify: parameters.bool("SkipVerify", false)?,
            keep_alive: parameters
                .parsed::<Period>("KeepAlive")?
                .map_or(DEFAULT_KEEP_ALIVE, |period| period.0),
            connect_timeout: time("ConnectTimeout", DEFAULT_CONNECT_TIMEOUT)?,
            max_reconnect_interval: parameters
                .parsed::<Period>("MaxReconnectInterval")?
                .map_or(DEFAULT_MAX_RECONNECT_INTERVAL, |period| period.0),
            will: will(parameters)?,
        };
        Ok(Self {
            connection,
            shown_address,
            topic: not_blank(parameters, "Topic", parameters.required("Topic")?)?,
            qos: match parameters.get("Qos") {
                None => Qos::default(),
                Some(text) => qos(parameters, "Qos", text)?,
            },
            retain: parameters.bool("Retain", false)?,
            persist_on_error: parameters.bool("PersistOnError", false)?,
            pre_connect: switch(parameters, "PreConnect")?,
        })
    }
}

/// The address of a broker with `xxxxx` for the password that may stand in it, as Go shows it.
fn without_password(address: &str) -> String {
    let begin = address.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = address.split_at(begin);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    match user.split_once(':') {
        Some((name, _)) => format!("{scheme}{name}:xxxxx{}", &rest[user.len()..]),
        None => address.to_owned(),
    }
}

fn will(parameters: &Parameters) -> Result<Option<LastWill>, InvalidFunction> {
    let level = parameters.text("WillQos");
    let qos = match level {
        "" => Qos::default(),
        text => qos(parameters, "WillQos", text)?,
    };
    // The second name is that of EdgeX's documentation.
    let retain = switch(parameters, "WillRetained")? || switch(parameters, "WillRetain")?;
    if !switch(parameters, "WillEnabled")? {
        return Ok(None);
    }
    let text = |name| not_blank(parameters, name, parameters.text(name));
    Ok(Some(LastWill {
        topic: text("WillTopic")?,
        payload: Bytes::from(text("WillPayload")?),
        qos,
        retain,
    }))
}

/// As [`Parameters::bool`], but blank is false too.
fn switch(parameters: &Parameters, name: &str) -> Result<bool, InvalidFunction> {
    match parameters.text(name) {
        "" => Ok(false),
        _ => parameters.bool(name, false),
    }
}

fn qos(parameters: &Parameters, name: &str, text: &str) -> Result<Qos, InvalidFunction> {
    let level = u8::from_str(text.trim()).ok().map(Qos::try_from);
    match level {
        Some(Ok(qos)) => Ok(qos),
        _ => Err(parameters.invalid(name, format!("'{text}', which is not 0, 1 or 2"))),
    }
}

fn not_blank(parameters: &Parameters, name: &str, text: &str) -> Result<String, InvalidFunction> {
    match text {
        "" => Err(parameters.invalid(name, "blank")),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: [(&str, &str); 3] = [
        ("BrokerAddress", "tcp://localhost:1883"),
        ("Topic", "edgex-export"),
        ("ClientId", "MQTT-Export"),
    ];

    fn options(more: &[(&str, &str)]) -> Result<MqttExportOptions, InvalidFunction> {
        let all = MINIMAL.into_iter().chain(more.iter().copied());
        MqttExportOptions::from_parameters(&Parameters::new("MQTTExport", all))
    }

    #[track_caller]
    fn refusal(more: &[(&str, &str)]) -> String {
        options(more).expect_err("it is wrong").to_string()
    }

    #[test]
    fn what_is_left_out_has_edgex_s_defaults() {
        let options = options(&[]).unwrap();
        let connection = &options.connection;
        assert_eq!(
            (options.qos, options.retain, options.pre_connect),
            (Qos::AtMostOnce, false, false)
        );
        assert_eq!(connection.auth_mode, AuthMode::None);
        assert_eq!(connection.keep_alive, Duration::from_secs(30));
        assert_eq!(connection.connect_timeout, Duration::from_secs(30));
        assert_eq!(connection.max_reconnect_interval, Duration::from_secs(2));
        assert_eq!(connection.secret_name, "");
        assert_eq!(connection.will, None);
    }

    #[test]
    fn blank_is_the_default_where_the_original_s_profile_has_blanks() {
        let blank = [
            "MaxReconnectInterval",
            "KeepAlive",
            "ConnectTimeout",
            "WillPayload",
            "WillTopic",
            "PreConnectRetryCount",
            "PreConnectRetryInterval",
            "PreConnect",
            "WillEnabled",
        ];
        assert!(options(&blank.map(|name| (name, ""))).is_ok());
        for name in ["Retain", "AutoReconnect", "SkipVerify", "PersistOnError", "Qos"] {
            assert!(refusal(&[(name, "")]).contains(name));
        }
    }

    #[test]
    fn the_longest_pause_between_two_attempts_may_be_another() {
        let longest = |text| {
            options(&[("MaxReconnectInterval", text)])
                .unwrap()
                .connection
                .max_reconnect_interval
        };
        assert_eq!(longest("90s"), Duration::from_secs(90));
        assert_eq!(longest(""), Duration::from_secs(2));
    }

    #[test]
    fn what_does_not_parse_is_refused_by_name() {
        for (name, text) in [
            ("BrokerAddress", "ws://broker"),
            ("Qos", "3"),
            ("Qos", "-1"),
            ("WillQos", "x"),
            ("AuthMode", "oauth"),
            ("KeepAlive", "30"),
            ("ConnectTimeout", "0s"),
            ("MaxReconnectInterval", "soon"),
            ("PreConnectRetryCount", "many"),
            ("PreConnectRetryInterval", "soon"),
            ("PreConnect", "perhaps"),
            ("Topic", " "),
        ] {
            assert!(refusal(&[(name, text)]).contains(name), "{name} {text}");
        }
        for name in ["BrokerAddress", "Topic", "ClientId"] {
            let left = MINIMAL.into_iter().filter(|(known, _)| *known != name);
            let error = MqttExportOptions::from_parameters(&Parameters::new("MQTTExport", left)).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn the_qos_of_the_will_is_not_that_of_messages() {
        let will = [
            ("WillEnabled", "true"),
            ("WillTopic", "gone"),
            ("WillPayload", "bye"),
            ("WillQos", "2"),
            ("WillRetain", "true"),
        ];
        let options = options(&[&will[..], &[("Qos", "1")]].concat()).unwrap();
        assert_eq!(options.qos, Qos::AtLeastOnce);
        let expected = LastWill {
            topic: "gone".to_owned(),
            payload: Bytes::from("bye"),
            qos: Qos::ExactlyOnce,
            retain: true,
        };
        assert_eq!(options.connection.will, Some(expected));
        assert!(refusal(&will[..2]).contains("WillPayload"));
        assert!(refusal(&[will[0], will[2]]).contains("WillTopic"));
    }
}
