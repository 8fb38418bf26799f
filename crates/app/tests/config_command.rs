//! `edgehold config …`: on files alone, and on a real Consul, also beside the running service.

mod consul;

use std::{
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A private file in a folder, and commands that find it by `-cd`.
struct Files {
    folder: TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn json_lines(&self) -> Vec<Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

impl Files {
    fn new(private: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("configuration.yaml"), private).unwrap();
        Self { folder }
    }

    fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgehold"));
        command
            .env_clear()
            .env("EDGEX_SECURITY_SECRET_STORE", "false")
            .current_dir(self.folder.path())
            .args(["-cd", ".", "-sk", "app-x"])
            .args(flags)
            .arg("config")
            .args(words);
        command
    }

    fn run(&self, flags: &[&str], words: &[&str]) -> Said {
        said(self.command(flags, words).output().unwrap())
    }
}

fn said(output: Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Configurations of EdgeX itself, as published.
fn of_edgex(generation: &str, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../config/testdata")
        .join(generation)
        .join(format!("{name}.yaml"))
}

const BROKEN: &str = "\
Writable:
  LogLevel: info
  StoreAndForward:
    RetryIntreval: 30s
    RetryInterval: 200ms
  Pipeline:
    ExecutionOrder: FilterByDeviceNam, HTTPExport, Compres
    PerTopicPipelines:
      one: {Id: a, Topics: 'x/#', ExecutionOrder: Good}
      two: {Id: a, Topics: 'y/#', ExecutionOrder: SetResponseData}
      three: {Id: c, ExecutionOrder: SetResponseData}
    Functions:
      FilterByDeviceName: {Parameters: {DeviceNames: ''}}
      Compres: {Parameters: {Algorithm: gzip}}
      HTTPExport:
        Parameters:
          Method: put
          Ulr: http://user:hush@h/x
          PersistOnError: 'true'
      Batch: {Parameters: {Mode: bycount, BatchThreshold: many}}
      SetResponseData: {Parameters: {ResponseContentTyp: text/plain}}
  InsecureSecrets:
    DB: {SecretData: {password: hush}}
Service: {Port: 99999, MaxResultCount: 7}
StoreAndForward: {Enabled: true}
Trigger: {Type: edgex-messagbus}
";

#[test]
fn every_problem_of_a_file_is_told_with_line_and_column() {
    let files = Files::new(BROKEN);
    let mut command = files.command(&[], &["check"]);
    let command = command.envs([
        ("SERVICE_PORT", "abc"),
        ("WRITABLE_LOGLEVL", "DEBUG"),
        ("SERVICE_HOST", "h"),
    ]);
    let said = said(command.output().unwrap());

    assert_eq!(said.code, Some(1), "{said:?}");
    let file = "configuration.yaml";
    let functions = "Writable/Pipeline/Functions";
    for expected in [
        "environment SERVICE_PORT: error: 'abc' for Service/Port: it is not a whole number".to_owned(),
        "environment WRITABLE_LOGLEVL: warning: it looks like an override, but names no setting; did you mean \
         'WRITABLE_LOGLEVEL'?"
            .to_owned(),
        format!("{file}:2:13: error: Writable/LogLevel: 'info' cannot be used: it is not one of "),
        format!(
            "{file}:4:5: warning: Writable/StoreAndForward/RetryIntreval: this is no setting, nothing reads it; did you \
             mean 'Writable/StoreAndForward/RetryInterval'?"
        ),
        format!("{file}:5:20: warning: Writable/StoreAndForward/RetryInterval: '200ms': a duration below 1s"),
        format!("{file}:7:21: error: Writable/Pipeline/ExecutionOrder: function 'FilterByDeviceNam' is not configured"),
        "; did you mean 'FilterByDeviceName'?\n".to_owned(),
        format!("{file}:9:51: error: Writable/Pipeline/PerTopicPipelines/one/ExecutionOrder: function 'Good' is not"),
        format!("{file}:10:17: error: Writable/Pipeline/PerTopicPipelines/two/Id: another pipeline has the id 'a'"),
        format!("{file}:11:7: error: Writable/Pipeline/PerTopicPipelines/three: the pipeline 'c' cannot be built: it has no topics"),
        format!("{file}:12:5: note: {functions}: in no ExecutionOrder, so never called: Batch, FilterByDeviceName\n"),
        format!("{file}:14:7: error: {functions}/Compres: 'Compres' is not the name of a known function"),
        "; did you mean 'Compress'?\n".to_owned(),
        format!("{file}:18:11: error: {functions}/HTTPExport/Parameters/Ulr: function 'HTTPExport': parameter 'Url' is missing; did you mean 'Url'?"),
        format!("{file}:19:11: warning: {functions}/HTTPExport/Parameters/PersistOnError: it has no effect while"),
        format!("{file}:20:59: warning: {functions}/Batch/Parameters/BatchThreshold: function 'Batch': parameter"),
        format!("{file}:21:38: warning: {functions}/SetResponseData/Parameters/ResponseContentTyp: SetResponseData does not know this parameter; did you mean 'ResponseContentType'?"),
        format!("{file}:23:9: error: Writable/InsecureSecrets/DB: it has no SecretName"),
        format!("{file}:24:17: error: Service/Port: '99999' cannot be used: it is not between 0 and 65535"),
        format!("{file}:24:24: note: Service/MaxResultCount: it is accepted and has no effect"),
        format!("{file}:25:19: warning: StoreAndForward/Enabled: this is no setting, nothing reads it; did you mean 'Writable/StoreAndForward/Enabled'?"),
        format!("{file}:26:17: error: Trigger/Type: Trigger/Type 'edgex-messagbus' is none of"),
    ] {
        assert!(said.out.contains(&expected), "no {expected:?} in\n{}", said.out);
    }
    assert!(
        !format!("{said:?}").contains("hush"),
        "a secret is shown: {said:?}"
    );
}

#[test]
fn what_is_no_yaml_is_told_with_its_place_and_a_missing_file_by_name() {
    let files = Files::new("Writable:\n  LogLevel: INFO\n  LogLevel: DEBUG\n");
    let said = files.run(&[], &["check"]);
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.starts_with("configuration.yaml:3:3: error: "),
        "{said:?}"
    );
    assert!(said.out.to_lowercase().contains("duplicate"), "{said:?}");

    let said = files.run(&[], &["check", "nowhere.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.out.contains("nowhere.yaml does not exist"), "{said:?}");

    // Other commands cannot do without it.
    let said = files.run(&[], &["show"]);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    assert!(
        said.err.starts_with("edgehold: configuration.yaml:3:3: "),
        "{said:?}"
    );
}

#[test]
fn configurations_of_edgex_are_without_errors() {
    const PROFILES: [&str; 7] = [
        "sample",
        "rules-engine",
        "mqtt-export",
        "http-export",
        "functional-tests",
        "external-mqtt-trigger",
        "metrics-influxdb",
    ];
    for generation in ["v3", "v4"] {
        for profile in PROFILES {
            let files = Files::new("");
            let common = of_edgex(generation, "core-common-config-bootstrapper");
            let private = of_edgex(generation, profile);
            let said = files.run(
                &["-cc", common.to_str().unwrap()],
                &["check", "--json", private.to_str().unwrap()],
            );
            assert_eq!(
                (said.code, said.err.as_str()),
                (Some(0), ""),
                "{generation}/{profile}: {said:?}"
            );
            let report = said.json();
            assert_eq!(report["errors"], 0);
            assert_ne!(report["pipelines"][0], Value::Null, "{generation}/{profile}");
            let has_placeholder = said
                .out
                .contains("'<put your URL here>' is still to be filled in");
            assert_eq!(
                has_placeholder,
                profile == "http-export",
                "{generation}/{profile}: {said:?}"
            );
        }
    }
}

#[test]
fn warnings_count_when_they_are_to() {
    let files = Files::new(
        "Writable:
  Pipeline:
    ExecutionOrder: SetResponseData
    Functions: {SetResponseData: {}}
Trigger: {Tpe: http}
",
    );
    let said = files.run(&[], &["check"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(
        said.out
            .ends_with("pipelines: default-pipeline\n0 errors, 1 warning, 0 notes\n"),
        "{said:?}"
    );
    let said = files.run(&[], &["check", "--strict", "--json"]);
    assert_eq!(said.code, Some(1));
    let report = said.json();
    let finding = &report["findings"][0];
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["key"], "Trigger/Tpe");
    assert_eq!(finding["suggestion"], "Trigger/Type");
    assert_eq!(
        finding["origin"],
        serde_json::json!({"layer": "private", "file": "configuration.yaml", "line": 5, "column": 11, "variable": null})
    );
    assert_eq!(report["seeds"], Value::Null);
}

const PRIVATE: &str = "\
Writable:
  LogLevel: DEBUG
  Pipeline:
    ExecutionOrder: ToLineProtocol, SetResponseData
    Functions:
      ToLineProtocol: {}
      SetResponseData: {Parameters: {ResponseContentType: '0x10'}}
  InsecureSecrets:
    DB: {SecretName: 'yes', SecretData: {password: hush}}
ApplicationSettings: {'odd: name': \"a\\nb\", Number: '5'}
";

#[test]
fn what_is_shown_reads_back_as_the_same_and_says_where_it_comes_from() {
    let files = Files::new(PRIVATE);
    let common = of_edgex("v3", "core-common-config-bootstrapper");
    let common = ["-cc", common.to_str().unwrap()];
    let with_variable = |words: &[&str]| {
        let mut command = files.command(&common, words);
        said(
            command
                .env("WRITABLE_STOREANDFORWARD_RETRYINTERVAL", "7s")
                .output()
                .unwrap(),
        )
    };

    // When everything is shown, with and without origins,
    for words in [&["show"][..], &["show", "--origin"]] {
        let said = with_variable(words);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
        assert!(!said.out.contains("hush"), "{}", said.out);

        // then it is a configuration that comes to the same.
        std::fs::write(files.folder.path().join("shown.yaml"), &said.out).unwrap();
        let again = files.run(&[], &["show", "--file", "shown.yaml"]);
        assert_eq!(again.out, with_variable(&["show"]).out);
    }
    let said = with_variable(&["show", "--origin"]);
    for expected in [
        "  LogLevel: DEBUG  # private configuration.yaml:2\n",
        "    RetryInterval: 7s  # environment WRITABLE_STOREANDFORWARD_RETRYINTERVAL\n",
        "    MaxRetryCount: 10  # app-services ",
        "core-common-config-bootstrapper.yaml:",
        "    JournalDelay: 5ms  # default\n",
        "      password: <redacted>",
    ] {
        assert!(
            said.out.contains(expected)
                || said
                    .out
                    .contains(&expected.replace("<redacted>", "\"<redacted>\"")),
            "no {expected:?} in\n{}",
            said.out
        );
    }

    // And parts of it are, in each form.
    assert_eq!(
        with_variable(&["show", "Writable.LogLevel"]).out,
        "Writable:\n  LogLevel: DEBUG\n"
    );
    let tree = with_variable(&["show", "--json", "Writable/StoreAndForward"]).json();
    assert_eq!(tree["Writable"]["StoreAndForward"]["MaxRetryCount"], 10);
    let lines = with_variable(&["show", "--json", "--origin", "Writable/LogLevel"]).json_lines();
    assert_eq!(lines[0]["origin"]["line"], 2);
    assert_eq!(with_variable(&["get", "Writable.LogLevel"]).out, "DEBUG\n");
    assert_eq!(files.run(&[], &["get", "Writable/Nothing"]).code, Some(1));
    assert_eq!(files.run(&[], &["show", "Nothing"]).code, Some(1));
}

#[test]
fn keys_that_encrypt_nothing_are_told_and_not_shown() {
    let check = |secret: &str| {
        let text = format!(
            "Writable:\n  StoreAndForward: {{Enabled: true}}\n  Pipeline:\n    ExecutionOrder: Compress\n    Functions: \
             {{Compress: {{Parameters: {{Algorithm: gzip}}}}}}\n  InsecureSecrets:\n    keys: {{SecretName: {secret}}}\n\
             Database:\n  Encryption: aes256-gcm\n"
        );
        Files::new(&text).run(&[], &["check"])
    };
    // The common configuration, which is not there, may have it.
    let said = check("other");
    assert_eq!(said.code, Some(0), "{said:?}");
    let line = "warning: Database/Encryption is on, but the secret with its keys cannot be had: no secret named \
                'store-encryption'";
    assert!(said.out.contains(line), "{said:?}");
    // Here it is.
    let said = check("store-encryption, SecretData: {active: one, one: hush}");
    assert_eq!(said.code, Some(1), "{said:?}");
    let line = "configuration.yaml:9:15: error: Database/Encryption is on, but the secret 'store-encryption' is of no \
                use: the key 'one' is not 64 hexadecimal digits";
    assert!(said.out.contains(line), "{said:?}");
    assert!(!said.out.contains("hush"), "{said:?}");
    let digits = "1a".repeat(32);
    let said = check(&format!(
        "store-encryption, SecretData: {{active: one, one: {digits}}}"
    ));
    assert!(!said.out.contains("Database/Encryption"), "{said:?}");
}

#[test]
fn a_running_service_is_asked_as_it_listens() {
    for (protocol, url) in [
        ("", "http://127.0.0.1:1/api/v3/config: no answer"),
        ("https", "https://127.0.0.1:1/api/v3/config: no answer"),
    ] {
        let text = format!("Service: {{Host: 127.0.0.1, Port: 1}}\nHttpServer: {{Protocol: '{protocol}'}}\n");
        let said = Files::new(&text).run(&[], &["diff", "--running"]);
        assert_eq!(said.code, Some(2), "{said:?}");
        assert!(said.err.contains(url), "{said:?}");
    }
}

#[test]
fn what_differs_from_the_defaults_is_a_line_each() {
    let files = Files::new(PRIVATE);
    let said = files.run(&[], &["diff"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.starts_with("--- defaults\n+++ effective\n"), "{said:?}");
    let line = "Writable/LogLevel\t'INFO' -> 'DEBUG'\t(private configuration.yaml:2)\n";
    assert!(said.out.contains(line), "{said:?}");
    assert!(!said.out.contains("hush"), "{said:?}");

    let said = Files::new("Writable: {LogLevel: INFO}").run(&[], &["diff", "--json"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""));
}

#[test]
fn a_wrong_call_ends_with_2_and_says_where_help_is_and_help_is_printed() {
    let files = Files::new("");
    for words in [&["set"][..], &["chek"], &["check", "--loud"], &[]] {
        let said = files.run(&[], words);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{words:?}");
        assert!(
            said.err
                .ends_with("\n'edgehold config --help' lists commands and options\n"),
            "{said:?}"
        );
    }
    let said = files.run(&[], &["set", "Writable/LogLevel=INFO"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("there is no configuration provider: name it before the command"),
        "{said:?}"
    );
    for words in [&["--help"][..], &["push", "-h"]] {
        assert!(
            files
                .run(&[], words)
                .out
                .starts_with("Usage: edgehold [flags] config check")
        );
    }
}

/// Runs a command with this on its standard input.
fn with_input(command: &mut Command, input: &str) -> Said {
    use std::io::Write as _;
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    said(process.wait_with_output().unwrap())
}
