//! With a real Consul.

use std::process::Command;

use edgehold_test_support::{Consul, Port, Process, wait::LONG};
use tokio::time::Instant;

use super::{Files, Said, of_edgex, said, with_input};

const COMMON: &str = "edgex/v3/core-common-config-bootstrapper";

const PRIVATE: &str = "\
Writable:
  LogLevel: INFO
  Pipeline:
    ExecutionOrder: FilterByDeviceName, SetResponseData
    Functions:
      FilterByDeviceName: {Parameters: {DeviceNames: 'pump-1'}}
      SetResponseData: {Parameters: {ResponseContentType: text/plain}}
  InsecureSecrets:
    DB: {SecretName: redisdb, SecretData: {password: hush}}
Service: {Host: localhost, Port: 59999}
MessageBus: {Disabled: true}
Trigger: {Type: http}
";

struct Stack {
    runtime: tokio::runtime::Runtime,
    consul: Consul,
    files: Files,
    provider: String,
}

impl Stack {
    /// A Consul as `core-common-config-bootstrapper` leaves it, and a private file.
    fn new(private: &str) -> Self {
        let stack = Self::without_common(private);
        let recorded = std::fs::read_to_string(of_edgex("v3", "kv-export").with_extension("json")).unwrap();
        let recorded: std::collections::BTreeMap<String, String> = serde_json::from_str(&recorded).unwrap();
        let common: Vec<_> = recorded
            .into_iter()
            .filter(|(key, _)| key.starts_with(COMMON))
            .collect();
        stack.runtime.block_on(stack.consul.put_all(&common)).unwrap();
        stack
    }

    fn without_common(private: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let consul = runtime.block_on(Consul::start()).unwrap();
        Self {
            provider: format!("-cp=consul.http://127.0.0.1:{}", consul.port()),
            files: Files::new(private),
            runtime,
            consul,
        }
    }

    fn run(&self, words: &[&str]) -> Said {
        self.files.run(&[&self.provider], words)
    }

    /// What a command prints that ends with this code and says nothing else.
    #[track_caller]
    fn printed(&self, code: i32, words: &[&str]) -> String {
        let said = self.run(words);
        assert_eq!(
            (said.code, said.err.as_str()),
            (Some(code), ""),
            "{words:?}: {said:?}"
        );
        said.out
    }

    fn get(&self, path: &str) -> Option<String> {
        let value = self
            .runtime
            .block_on(self.consul.get(&format!("edgex/v3/app-x/{path}")))
            .unwrap();
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    fn put(&self, key: &str, value: &str) {
        self.runtime
            .block_on(self.consul.put(&format!("edgex/v3/{key}"), value))
            .unwrap();
    }

    /// How many keys the private section has.
    fn keys(&self) -> usize {
        self.runtime
            .block_on(self.consul.list("edgex/v3/app-x/"))
            .unwrap()
            .len()
    }
}

#[test]
fn a_dry_run_says_what_a_start_would_do_and_writes_nothing() {
    let stack = Stack::new(PRIVATE);

    // Given an empty private section, everything would be seeded.
    let printed = stack.printed(0, &["check"]);
    assert!(
        printed.contains("a start would write 10 settings into consul "),
        "{printed}"
    );
    assert!(printed.contains("\n  Writable/LogLevel = INFO\n"), "{printed}");
    assert!(
        printed.contains("\n  Writable/InsecureSecrets/DB/SecretData/password = <redacted>\n"),
        "{printed}"
    );
    assert!(
        printed.ends_with("pipelines: default-pipeline\n0 errors, 0 warnings, 0 notes\n"),
        "{printed}"
    );

    // Given one that has a bad value, another value than the environment, and a broken pipeline,
    stack.put("app-x/Writable/LogLevel", "loud");
    stack.put("app-x/Service/Port", "59998");
    stack.put("app-x/Writable/Pipeline/ExecutionOrder", "SetResponseDat");
    stack.put(
        "core-common-config-bootstrapper/app-services/Writable/StoreAndForward/RetryInterval",
        "soon",
    );
    let mut command = stack.files.command(&[&stack.provider], &["check"]);
    let said = said(
        command
            .envs([("SERVICE_PORT", "59997"), ("SERVICE_STARTUPMSG", "hello")])
            .output()
            .unwrap(),
    );

    // then all of it is told,
    assert_eq!((said.code, said.err.as_str()), (Some(1), ""));
    for expected in [
        "private: error: Writable/LogLevel: 'loud' cannot be used",
        "private: error: Writable/Pipeline/ExecutionOrder: function 'SetResponseDat' is not configured under \
         Writable/Pipeline/Functions; did you mean 'SetResponseData'?",
        "app-services: error: Writable/StoreAndForward/RetryInterval: 'soon' cannot be used",
        "environment SERVICE_PORT: warning: Service/Port: '59997' would have no effect: the provider holds '59998'",
        "  Service/StartupMsg = hello\n",
        "a start would write 8 settings into",
    ] {
        assert!(said.out.contains(expected), "no {expected:?} in\n{}", said.out);
    }
    // and nothing has been written.
    assert_eq!(stack.keys(), 3);
}

#[test]
fn a_provider_without_common_configuration_is_told() {
    let stack = Stack::without_common(PRIVATE);
    let printed = stack.printed(1, &["check"]);
    assert!(
        printed.contains("all-services: error: IsCommonConfigReady is not true"),
        "{printed}"
    );
    assert!(
        printed.contains("app-services: error: the provider has no keys of it"),
        "{printed}"
    );
}

#[test]
fn a_push_writes_what_is_missing_and_more_only_when_asked() {
    let stack = Stack::new(PRIVATE);
    stack.put("app-x/Writable/LogLevel", "WARN");
    stack.put("app-x/Writable/Telemetry/Tags/Site", "plant-1");

    // Dry, nothing is written.
    let printed = stack.printed(0, &["push", "--dry-run"]);
    assert!(
        printed.contains("Service/Port: - -> '59999' (at the next start)\n"),
        "{printed}"
    );
    assert!(printed.ends_with("9 settings would be written\n"), "{printed}");
    assert_eq!(stack.keys(), 2);

    // What is there is kept,
    let printed = stack.printed(0, &["push"]);
    assert!(
        printed.contains("Writable/LogLevel: 'WARN' is kept, the file has 'INFO' (--overwrite)\n"),
        "{printed}"
    );
    assert!(printed.ends_with("9 settings written\n"), "{printed}");
    assert_eq!(stack.get("Writable/LogLevel").as_deref(), Some("WARN"));
    assert_eq!(
        stack
            .get("Writable/InsecureSecrets/DB/SecretData/password")
            .as_deref(),
        Some("hush")
    );

    // and differs,
    let printed = stack.printed(1, &["diff"]);
    let lines: Vec<_> = printed.lines().skip(2).collect();
    assert_eq!(
        lines,
        [
            "Writable/LogLevel\t'INFO' -> 'WARN'\t(private configuration.yaml:2)",
            "Writable/Telemetry/Tags/Site\t- -> 'plant-1'\t(private)",
        ]
    );
    // until it is overwritten, and what is not in the file removed, which has to be meant.
    let said = stack.run(&["push", "--overwrite", "--prune"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("--yes"), "{said:?}");
    assert!(
        said.out
            .contains("Writable/Telemetry/Tags/Site: 'plant-1' -> -\n"),
        "{said:?}"
    );
    assert_eq!(
        stack.get("Writable/Telemetry/Tags/Site").as_deref(),
        Some("plant-1")
    );
    let printed = stack.printed(0, &["push", "--overwrite", "--prune", "--yes"]);
    assert!(printed.ends_with("2 settings written\n"), "{printed}");
    assert!(
        stack
            .printed(0, &["diff"])
            .starts_with("nothing differs between ")
    );
    assert_eq!(stack.get("Writable/Telemetry/Tags/Site"), None);

    let json: serde_json::Value = serde_json::from_str(&stack.printed(0, &["push", "--json"])).unwrap();
    assert_eq!(
        (&json["written"], &json["changes"]),
        (&0.into(), &serde_json::json!([]))
    );
}

#[test]
fn a_push_that_brings_in_an_error_is_refused() {
    let stack = Stack::new(PRIVATE);
    stack.printed(0, &["push"]);
    let bad = PRIVATE.replace(
        "text/plain}}",
        "text/plain}}\n      Export: {Parameters: {Url: x}}",
    );
    let bad = bad.replace(", SetResponseData\n", ", SetResponseData, Export\n");
    std::fs::write(stack.files.folder.path().join("bad.yaml"), bad).unwrap();

    let said = stack.run(&["push", "bad.yaml", "--overwrite"]);
    assert_eq!((said.code, said.out.as_str()), (Some(1), ""));
    assert!(
        said.err.contains("'Export' is not the name of a known function"),
        "{said:?}"
    );
    assert!(said.err.contains("nothing has been written"), "{said:?}");
    let order = "Writable/Pipeline/ExecutionOrder";
    assert_eq!(
        stack.get(order).as_deref(),
        Some("FilterByDeviceName, SetResponseData")
    );

    let said = stack.run(&["push", "bad.yaml", "--overwrite", "--force"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(
        stack.get(order).as_deref(),
        Some("FilterByDeviceName, SetResponseData, Export")
    );
    // An error that is there already is no reason against another change.
    stack.printed(0, &["set", "Writable/LogLevel=WARN"]);
}

#[test]
fn settings_are_set_and_removed_in_one_transaction_after_they_were_checked() {
    let stack = Stack::new(PRIVATE);
    stack.printed(0, &["push"]);

    // Several at once, and a secret that stands in no history.
    let words = [
        "set",
        "Writable.LogLevel=DEBUG",
        "Writable/InsecureSecrets/m/SecretName=mqtt",
        "Writable/InsecureSecrets/m/SecretData/password=-",
    ];
    let said = with_input(
        &mut stack.files.command(&[&stack.provider], &words),
        "a secret=x\n",
    );
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert!(
        said.out.contains("Writable/LogLevel: 'INFO' -> 'DEBUG'\n"),
        "{said:?}"
    );
    assert!(!said.out.contains("a secret"), "{said:?}");
    let secret = "Writable/InsecureSecrets/m/SecretData/password";
    assert_eq!(stack.get(secret).as_deref(), Some("a secret=x"));
    assert_eq!(stack.printed(0, &["get", secret]), "<redacted>\n");

    // One bad one, and none is written.
    for (words, problem) in [
        (&["Writable/LogLevel=debug"][..], "it is not one of"),
        (
            &["Writable/Loglevel=DEBUG"],
            "it is no setting; did you mean 'Writable/LogLevel'?",
        ),
        (&["Writable=x"], "settings are below it"),
        (
            &["Writable/Pipeline/ExecutionOrder=Nope"],
            "function 'Nope' is not configured",
        ),
        (
            &["Writable/InsecureSecrets/new/SecretData/x=y"],
            "it has no SecretName",
        ),
        (
            &["Writable/Pipeline/Functions/FilterByDeviceName/Parameters/FilterOut=maybe"],
            "not a boolean",
        ),
    ] {
        let words = [&["set", "Service/StartupMsg=hello"], words].concat();
        let said = stack.run(&words);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{words:?}");
        assert!(
            said.err.contains(problem) && said.err.contains("--force"),
            "{said:?}"
        );
    }
    assert_eq!(stack.get("Service/StartupMsg"), None);
    assert_eq!(stack.run(&["set", "Custom/Thing=1", "--force"]).code, Some(0));
    assert_eq!(stack.get("Custom/Thing").as_deref(), Some("1"));

    // Common sections have their own, also where the private one hides it.
    let words = ["set", "Writable/LogLevel=ERROR", "--common", "all-services"];
    let said = stack.run(&words);
    assert_eq!(said.code, Some(0), "{said:?}");
    let hidden = "Writable/LogLevel has no effect on app-x: its private section has another value";
    assert!(said.err.contains(hidden), "{said:?}");
    assert_eq!(
        stack.printed(0, &["get", "Writable/LogLevel", "--common=all-services"]),
        "ERROR\n"
    );
    assert_eq!(stack.printed(0, &["get", "Writable/LogLevel"]), "DEBUG\n");
    let said = stack.run(&["set", "Writable/LogLevel=silent", "--common", "app-services"]);
    assert_eq!(said.code, Some(1), "{said:?}");

    // Removed, the next lower one holds.
    stack.printed(0, &["unset", "Writable/LogLevel"]);
    assert_eq!(stack.printed(0, &["get", "Writable/LogLevel"]), "ERROR\n");
    assert_eq!(stack.run(&["unset", "Writable/LogLevel"]).code, Some(1));
    assert_eq!(
        stack.run(&["get", "--private", "Writable/LogLevel"]).code,
        Some(1)
    );
    let said = stack.run(&["unset", "Writable/InsecureSecrets/m"]);
    assert!(
        said.err
            .contains("is a folder with 2 settings; --recursive removes them"),
        "{said:?}"
    );
    stack.printed(0, &["unset", "--recursive", "Writable/InsecureSecrets/m"]);
    assert_eq!(stack.get(secret), None);
    // What holds the running pipeline together is not removed by mistake.
    let said = stack.run(&[
        "unset",
        "--recursive",
        "Writable/Pipeline/Functions/SetResponseData",
    ]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(
        stack.run(&["set", "Writable/LogLevel=INFO", "--dry-run"]).code,
        Some(0)
    );
    assert_eq!(stack.get("Writable/LogLevel"), None);
}

#[test]
fn a_file_with_many_functions_fits_into_consuls_transactions() {
    let sample = std::fs::read_to_string(of_edgex("v3", "sample")).unwrap();
    let stack = Stack::new(&sample);
    let printed = stack.printed(0, &["push"]);
    assert!(printed.ends_with(" settings written\n"), "{printed}");
    assert!(stack.keys() > 64);
    assert!(stack.printed(0, &["diff"]).starts_with("nothing differs"));
}

#[test]
fn commands_work_beside_the_running_service() {
    let mut stack = Stack::new(PRIVATE);
    let port = Port::hold().unwrap();
    stack.printed(0, &["push"]);
    stack.printed(0, &["set", &format!("Service/Port={}", port.number())]);
    let mut service = start(&stack);
    stack
        .runtime
        .block_on(service.wait_for_line("Service started in", LONG));

    // What the provider says is what the service has,
    let said = stack.run(&["diff", "--running"]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""), "{said:?}");
    // also after a change, which it follows at once,
    stack.printed(0, &["set", "Writable/LogLevel=DEBUG"]);
    stack
        .runtime
        .block_on(service.wait_for_line("Writable configuration has been updated", LONG));
    let deadline = Instant::now() + LONG;
    while stack.run(&["diff", "--running"]).code != Some(0) {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            stack.run(&["diff", "--running"])
        );
    }
    // and a setting that needs a start differs until then.
    stack.printed(0, &["set", "Service/StartupMsg=hello"]);
    let address = format!("--running=127.0.0.1:{}", port.number());
    let said = stack.run(&["diff", &address]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(
        said.out
            .ends_with("\nService/StartupMsg\t'hello' -> ''\t(private)\n"),
        "{said:?}"
    );

    // What it does not use it says, with the reason.
    stack.put("app-x/Writable/StoreAndForward/RetryInterval", "soon");
    let told = "edgehold: the running service does not use Writable/StoreAndForward/RetryInterval = 'soon': ";
    let deadline = Instant::now() + LONG;
    while !stack.run(&["diff", "--running"]).err.starts_with(told) {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            stack.run(&["diff", "--running"])
        );
    }

    service.signal_term().unwrap();
    stack.runtime.block_on(service.wait_exit(LONG));
    let said = stack.run(&["diff", "--running"]);
    assert_eq!(said.code, Some(2));
    assert!(
        said.err
            .contains("the running service cannot be asked: http://localhost:"),
        "{said:?}"
    );

    // A Consul that is away is told and not waited for.
    stack.consul.kill().unwrap();
    let said = stack.run(&["get", "Writable/LogLevel"]);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    assert!(said.err.contains("is not available"), "{said:?}");
}

fn start(stack: &Stack) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgehold"));
    command
        .env_clear()
        .env("EDGEX_SECURITY_SECRET_STORE", "false")
        .current_dir(stack.files.folder.path())
        .args(["-cd", ".", "-sk", "app-x", "-s"])
        .arg(&stack.provider);
    Process::start("edgehold", &mut command).unwrap()
}
