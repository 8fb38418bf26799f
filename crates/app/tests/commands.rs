//! `edgehold store …`, `dead …` and `settings` on a real file: beside the process that writes it, and after it.

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Output, Stdio},
};

use edgehold::{
    CorrelationId, DataKind, ErrorReason, ObjectState, PipelineId, PipelineVersion, RetryQueue, Room,
    ServiceKey, StoredInput, StoredObject, StoredObjectId, Timestamp,
};
use edgehold_store_sqlite::{Options, SqliteQueue};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

const SERVICE_KEY: &str = "app-commands";

/// A service that is configured by files alone, with its store.
struct Service {
    folder: TempDir,
}

impl Service {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("configuration.yaml"),
            "Writable:\n  LogLevel: INFO\n",
        )
        .unwrap();
        Self { folder }
    }

    fn command(&self, words: &[&str]) -> Command {
        let folder = self.folder.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgehold"));
        command
            .env_clear()
            .env("EDGEX_SECURITY_SECRET_STORE", "false")
            .arg("-cd")
            .arg(folder)
            .arg("--data-dir")
            .arg(folder)
            .args(["-sk", SERVICE_KEY])
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command that succeeds prints; it has nothing else to say.
    #[track_caller]
    fn printed(&self, words: &[&str]) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = self.run(words);
        let told = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{words:?} ended with {status}: {told}");
        assert_eq!(told, "", "{words:?}");
        String::from_utf8(stdout).unwrap()
    }

    #[track_caller]
    fn records(&self, words: &[&str]) -> Vec<Value> {
        self.printed(words)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What a command says that fails with this code; it prints nothing.
    #[track_caller]
    fn refused(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{words:?}");
        told
    }

    /// Puts objects into the store, which stays open for writing while `meanwhile` looks at it.
    fn filled(&self, objects: &[StoredObject], meanwhile: impl FnOnce()) {
        let path = self.folder.path().join(format!("{SERVICE_KEY}.db"));
        runtime().block_on(fill(&path, objects, meanwhile));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn fill(path: &Path, objects: &[StoredObject], meanwhile: impl FnOnce()) {
    let service_key = ServiceKey::try_new(SERVICE_KEY).unwrap();
    let (queue, writer) = SqliteQueue::open(Options::new(path, service_key)).await.unwrap();
    let work = async {
        for answer in queue.append(objects, Room::default()).await {
            answer.unwrap();
        }
        meanwhile();
        queue.close().await;
    };
    tokio::join!(writer.run(), work);
}

fn id(number: u64) -> StoredObjectId {
    StoredObjectId::from_uuid(Uuid::from_u64_pair(0x0190_0000_0000_7000, number))
}

fn waiting(number: u64) -> StoredObject {
    StoredObject {
        id: id(number),
        seq: 0,
        service_key: ServiceKey::try_new(SERVICE_KEY).unwrap(),
        pipeline_id: PipelineId::default_pipeline(),
        position: 1,
        version: PipelineVersion::from_stored("0123456789abcdef"),
        correlation_id: CorrelationId::new("correlation"),
        context: [("devicename".to_owned(), "Boiler".to_owned())].into(),
        input: StoredInput::Bytes {
            kind: DataKind::Bytes,
        },
        payload: format!("{{\"number\":{number}}}").into(),
        attempts: 1,
        state: ObjectState::Failed,
        created_at: Timestamp::from_unix_millis(1_700_000_000_000),
        last_attempt_at: None,
        not_before: None,
        last_error: None,
        errors: Default::default(),
        reason: None,
        destination: None,
        ended_at: None,
        crashes: 0,
    }
}

fn dead(number: u64, reason: ErrorReason) -> StoredObject {
    StoredObject {
        state: ObjectState::Error,
        reason: Some(reason),
        last_error: Some("status 500".to_owned()),
        ..waiting(number)
    }
}

/// Which objects these are, by their place in the order of appending.
fn seqs(records: &[Value]) -> Vec<i64> {
    records
        .iter()
        .map(|record| record["seq"].as_i64().unwrap())
        .collect()
}

#[test]
fn a_store_is_seen_alike_beside_its_writer_and_after_it() {
    // Given two objects that wait and two that were given up, one of them in another pipeline.
    let service = Service::new();
    let elsewhere = StoredObject {
        pipeline_id: PipelineId::try_new("float").unwrap(),
        ..dead(4, ErrorReason::PipelineChanged)
    };
    let objects = [
        waiting(1),
        dead(2, ErrorReason::RetriesExceeded),
        waiting(3),
        elsewhere,
    ];
    let look = || {
        // When their store is looked at, then each part holds its own objects, oldest first.
        assert_eq!(service.printed(&["store", "count"]), "2\n");
        assert_eq!(seqs(&service.records(&["store", "ls", "--json"])), [1, 3]);
        let records = service.records(&["dead", "ls", "--json"]);
        assert_eq!(seqs(&records), [2, 4]);
        assert_eq!(records[0]["id"], id(2).to_string());
        assert_eq!(records[0]["reason"], "retries_exceeded");
        assert_eq!(records[0]["payloadText"], "{\"number\":2}");

        // And the filters take what they name.
        for filter in [["--reason", "pipeline_changed"], ["--pipeline", "float"]] {
            let words = [&["dead", "ls", "--json"][..], &filter].concat();
            assert_eq!(seqs(&service.records(&words)), [4], "{filter:?}");
        }
        let table = service.printed(&["dead", "ls"]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[0].starts_with("SEQ  ID "), "{table}");
        assert!(
            lines[1].contains("retries_exceeded") && lines[1].contains("status 500"),
            "{table}"
        );
        assert!(
            lines[2].contains("float") && lines[2].ends_with("{\"number\":4}"),
            "{table}"
        );
    };
    service.filled(&objects, look);
    look();
}

#[test]
fn an_object_is_shown_by_id_and_by_number_in_the_part_it_is_in() {
    // Given one of each, the one given up with a payload that is no text.
    let service = Service::new();
    let binary = StoredObject {
        payload: vec![0xa1, 0x00, 0xff].into(),
        ..dead(2, ErrorReason::Undecodable)
    };
    service.filled(&[waiting(1), binary], || {});
    let (waiting, dead) = (id(1).to_string(), id(2).to_string());

    // When they are asked for, then by id and by number the same is shown,
    let shown = service.printed(&["store", "show", &waiting]);
    assert_eq!(shown, service.printed(&["store", "show", "1"]));
    assert!(shown.contains("\ncontext\n  devicename Boiler\n"), "{shown}");
    assert!(shown.ends_with("\npayload\n{\n  \"number\": 1\n}\n"), "{shown}");
    // in each form,
    assert_eq!(
        service.records(&["store", "show", "1", "--json"]),
        service.records(&["store", "ls", "--json"])
    );
    assert!(
        service
            .printed(&["dead", "show", &dead])
            .contains("00000000  a1 00 ff ")
    );
    assert_eq!(
        service.run(&["dead", "show", "--raw", &dead]).stdout,
        [0xa1, 0x00, 0xff]
    );
    // and what is elsewhere or nowhere is a failure that says so.
    assert!(
        service
            .refused(1, &["dead", "show", &waiting])
            .contains("use 'store show'")
    );
    assert!(
        service
            .refused(1, &["store", "show", "2"])
            .contains("use 'dead show'")
    );
    for unknown in [id(3).to_string().as_str(), "3", "0"] {
        assert!(
            service
                .refused(1, &["dead", "show", unknown])
                .contains("there is no such object")
        );
    }
}

#[test]
fn what_was_given_up_is_redriven_and_purged_in_the_store_of_a_stopped_service() {
    // Given five that were given up, and one that waits.
    let service = Service::new();
    let of_fan = StoredObject {
        context: [("devicename".to_owned(), "Fan".to_owned())].into(),
        ..dead(5, ErrorReason::TooOld)
    };
    let objects = [
        dead(1, ErrorReason::RetriesExceeded),
        waiting(2),
        dead(3, ErrorReason::Corrupt),
        dead(4, ErrorReason::RetriesExceeded),
        of_fan,
        dead(6, ErrorReason::TooOld),
    ];
    service.filled(&objects, || {});

    // When they are counted, nothing has changed.
    let told = service.printed(&["dead", "redrive", "--all", "--dry-run"]);
    assert!(told.ends_with("\n4 objects (48B)\n"), "{told}");
    let count = &service.records(&["dead", "count", "--reason", "too_old", "--json"])[0];
    assert_eq!(
        (&count["objects"], &count["groups"][0]["objects"]),
        (&2.into(), &2.into())
    );
    assert_eq!(seqs(&service.records(&["dead", "ls", "--json"])), [1, 3, 4, 5, 6]);

    // When some are re-driven, they wait with a fresh count,
    let told = service.printed(&["dead", "redrive", "--device", "Fan"]);
    assert!(told.starts_with("re-driven: 1 of 1 objects (12B) in "), "{told}");
    let run = &service.records(&["dead", "redrive", &id(1).to_string(), "--json"])[0];
    assert_eq!((&run["state"], &run["done"]), (&"done".into(), &1.into()));
    let waiting = service.records(&["store", "ls", "--json"]);
    assert_eq!(seqs(&waiting), [1, 2, 5]);
    assert_eq!(
        (&waiting[0]["attempts"], &waiting[0]["reason"]),
        (&0.into(), &Value::Null)
    );

    // and what is purged is gone.
    let told = service.printed(&["dead", "purge", "--older-than", "1h", "--reason", "corrupt"]);
    assert!(told.starts_with("purged: 1 of 1 objects"), "{told}");
    assert!(
        service
            .printed(&["dead", "purge", "--newer-than", "1h"])
            .starts_with("purged: 0 of 0 ")
    );
    assert!(
        service
            .printed(&["dead", "purge", "--all"])
            .starts_with("purged: 2 of 2 objects")
    );
    assert_eq!(service.records(&["dead", "ls", "--json"]), Vec::<Value>::new());
    assert_eq!(service.printed(&["store", "count"]), "3\n");
}

#[test]
fn what_was_given_up_is_named_by_number_too_and_what_is_not_there_is_told() {
    let service = Service::new();
    service.filled(
        &[
            dead(1, ErrorReason::TooOld),
            waiting(2),
            dead(3, ErrorReason::TooOld),
        ],
        || {},
    );
    let told = service.printed(&["dead", "redrive", "1", "--dry-run"]);
    assert!(told.ends_with("\n1 objects (12B)\n"), "{told}");
    assert!(
        service
            .printed(&["dead", "redrive", "1"])
            .starts_with("re-driven: 1 of 1 objects (12B) in ")
    );
    // What waits, and what is nowhere.
    for number in ["1", "2", "9"] {
        assert_eq!(
            service.refused(1, &["dead", "purge", number]),
            format!("edgehold: cannot purge: there is no object {number} in the error collection\n")
        );
    }
    let unknown = id(9).to_string();
    let output = service.run(&["dead", "redrive", &unknown]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "edgehold: no such object was given up (what is corrupt is re-driven only with --reason corrupt)\n"
    );
    let output = service.run(&["dead", "purge", &unknown]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "edgehold: no such object was given up\n"
    );
    assert_eq!(seqs(&service.records(&["dead", "ls", "--json"])), [3]);
}

#[test]
fn a_copy_for_another_service_says_that_there_is_nothing_of_it() {
    let service = Service::new();
    service.filled(&[waiting(1)], || {});
    let path = |name: &str| service.folder.path().join(name).display().to_string();
    let (from, to) = (path(&format!("{SERVICE_KEY}.db")), path("copy.db"));
    let told = service.printed(&["-sk=app-other", "store", "copy", "--from", &from, "--to", &to]);
    let end = format!("{from} has no objects of the service 'app-other'; -sk and -p name another one.\n");
    assert!(told.ends_with(&end), "{told}");
    let told = service.printed(&["store", "copy", "--from", &from, "--to", &to]);
    assert!(told.starts_with("copied: 1 objects from "), "{told}");
    assert!(told.contains("They agree: every object is there"), "{told}");
}

#[test]
fn what_was_exported_comes_back_whole_and_once() {
    let service = Service::new();
    let objects = [
        dead(1, ErrorReason::TooOld),
        waiting(2),
        dead(3, ErrorReason::RetriesExceeded),
    ];
    let file = service.folder.path().join("dead.jsonl").display().to_string();
    service.filled(&objects, || {
        // Beside the service that writes the store.
        let told = service.printed(&["dead", "export", "--to", &file]);
        assert_eq!(told, format!("exported: 2 objects to {file}\n"));
        // Which alone may write it, and is asked for the rest. It does not answer here.
        let told = service.refused(1, &["dead", "import", &file]);
        assert!(told.contains("stop it, every instance of it"), "{told}");
        let told = service.refused(1, &["dead", "purge", "--all"]);
        assert!(
            told.contains("a running instance of the service has the store"),
            "{told}"
        );
    });
    assert_eq!(
        service.printed(&["dead", "export"]),
        std::fs::read_to_string(&file).unwrap()
    );
    assert!(
        service
            .refused(1, &["dead", "export", "--to", &file])
            .contains("not overwritten")
    );

    let before = service.records(&["dead", "ls", "--json"]);
    service.printed(&["dead", "purge", "--all"]);
    let told = service.printed(&["dead", "import", &file]);
    assert_eq!(told, "imported: 2 of 2 objects; the others were there\n");
    let told = service.printed(&["dead", "import", &file]);
    assert_eq!(told, "imported: 0 of 2 objects; the others were there\n");
    let without_seq = |records: Vec<Value>| -> Vec<Value> {
        let forget = |mut record: Value| {
            record["seq"] = 0.into();
            record
        };
        records.into_iter().map(forget).collect()
    };
    let after = service.records(&["dead", "ls", "--json"]);
    assert_eq!(without_seq(after), without_seq(before));
}

#[test]
fn a_store_that_only_its_service_can_reach_is_named_when_that_is_not_there() {
    let service = Service::new();
    let file = service.folder.path().join("configuration.yaml");
    std::fs::write(file, "Database: {Type: memory}\nService: {Port: 1}\n").unwrap();
    for words in [&["redrive", "--all"][..], &["count"], &["export"]] {
        let told = service.refused(1, &[&["dead"], words].concat());
        assert!(
            told.contains("only its running service can reach a store of type 'memory'"),
            "{told}"
        );
    }
    std::fs::write(service.folder.path().join("dead.jsonl"), "").unwrap();
    let file = service.folder.path().join("dead.jsonl").display().to_string();
    let told = service.refused(1, &["dead", "import", &file]);
    assert!(told.contains("takes no import"), "{told}");
}

#[test]
fn what_waits_in_the_spool_is_told_while_the_store_is_away() {
    let service = Service::new();
    let folder = service.folder.path();
    let file = folder.join("configuration.yaml");
    std::fs::write(
        file,
        "Database: {Type: postgres, Host: 127.0.0.1, Port: 1}\n\
         Writable: {InsecureSecrets: {db: {SecretName: postgres, SecretData: {username: u, password: hush}}}}\n",
    )
    .unwrap();
    let spool = folder.join(format!("{SERVICE_KEY}.spool.db"));
    runtime().block_on(fill(&spool, &[waiting(1), waiting(2)], || {}));
    let told = service.refused(1, &["store", "count"]);
    let first = format!(
        "edgehold: 2 objects wait in the spool {}, besides: they go into the store when it is back\n",
        spool.display()
    );
    assert!(
        told.starts_with(&format!(
            "{first}edgehold: cannot count: the store is not available: "
        )),
        "{told}"
    );
}

#[test]
fn a_large_store_is_read_page_by_page_to_its_end() {
    // Given more objects than are read at once.
    let service = Service::new();
    let objects: Vec<_> = (1..=600).map(waiting).collect();
    service.filled(&objects, || {});

    // When all are asked for, then all come, in order;
    let all = service.records(&["store", "ls", "--limit", "0", "--json"]);
    assert_eq!(seqs(&all), Vec::from_iter(1..=600));
    // when some are, then those, and from where it is said;
    assert_eq!(
        seqs(&service.records(&["store", "ls", "--json"])),
        Vec::from_iter(1..=50)
    );
    let some = service.records(&["store", "ls", "--limit=300", "--after=100", "--json"]);
    assert_eq!(seqs(&some), Vec::from_iter(101..=400));
    // and a table says where it goes on.
    let table = service.printed(&["store", "ls", "--limit", "2"]);
    assert!(table.ends_with("\nThere may be more: --after 2\n"), "{table}");
    let table = service.printed(&["store", "ls", "--after", "599"]);
    assert_eq!(table.lines().count(), 2, "{table}");
    // The last one is found as well.
    service.printed(&["store", "show", &id(600).to_string()]);
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    // Given far more than a pipe holds.
    let service = Service::new();
    let objects: Vec<_> = (1..=2_000).map(waiting).collect();
    service.filled(&objects, || {});

    // When the reader takes one line and goes.
    let mut process = service
        .command(&["store", "ls", "--json", "--limit", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(process.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    drop(reader);

    // Then the command ends well and without a word.
    let mut told = String::new();
    process.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told, "");
    assert!(process.wait().unwrap().success());
    assert!(line.contains("\"seq\":1,"), "{line}");
}

#[test]
fn where_nothing_has_been_stored_there_is_nothing_to_see() {
    let service = Service::new();
    assert_eq!(service.printed(&["store", "count"]), "0\n");
    for words in [&["store", "ls"][..], &["dead", "ls"]] {
        let output = service.run(words);
        assert!(output.status.success());
        assert_eq!(output.stdout, b"no objects\n");
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("nothing has been stored yet")
        );
    }
    service.refused(1, &["dead", "show", "1"]);
    assert_eq!(
        std::fs::read_dir(service.folder.path()).unwrap().count(),
        1,
        "looking leaves no trace"
    );
}

#[test]
fn a_file_that_is_no_store_cannot_be_read() {
    let service = Service::new();
    let path = service.folder.path().join(format!("{SERVICE_KEY}.db"));
    std::fs::write(path, [b'x'; 4096]).unwrap();
    let told = service.refused(1, &["dead", "ls"]);
    assert!(told.starts_with("edgehold: cannot list: "), "{told}");
    assert!(told.contains("is not an SQLite database"), "{told}");
}

#[test]
fn a_damaged_store_is_told_with_what_to_do() {
    let service = Service::new();
    service.filled(&[waiting(1)], || {});
    let path = service.folder.path().join(format!("{SERVICE_KEY}.db"));
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(30_000).unwrap();
    let told = service.refused(1, &["store", "check"]);
    let problem = format!(
        "{} is damaged; move it and its -wal away, and put a backup in its place or nothing: ",
        path.display()
    );
    assert!(told.contains(&problem), "{told}");
}

#[test]
fn a_wrong_call_ends_with_2_and_says_what_is_wrong_and_where_help_is() {
    let service = Service::new();
    for (words, told) in [
        (
            &["dead", "ls", "--colour"][..],
            "unknown option '--colour'\n'edgehold dead --help' lists commands and options\n",
        ),
        (
            &["store", "ls", "--limit", "x"],
            "--limit needs a number, not 'x'\n'edgehold store --help' lists commands and options\n",
        ),
        #[cfg(not(feature = "demo"))]
        (
            &["demo"],
            "the demo is not built in: 'make run' builds and runs it\n'edgehold --help' lists commands and options\n",
        ),
        (
            &["fly"],
            "unknown command 'fly'\n-h lists all flags and commands\n",
        ),
    ] {
        assert_eq!(service.refused(2, words), told, "{words:?}");
    }
}

#[test]
fn a_start_that_cannot_be_is_told() {
    let service = Service::new();
    assert_eq!(
        service.refused(1, &["-sk", "a/b"]),
        "invalid service key \"a/b\": it contains a slash\n"
    );
    let mut command = service.command(&["-cp=consul.http://127.0.0.1:1"]);
    let output = command.env("EDGEX_STARTUP_DURATION", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("consul http://127.0.0.1:1 is not available: the request failed: ")
            && told.contains("Connection refused"),
        "{told}"
    );
}

#[test]
fn help_for_commands_is_printed() {
    let service = Service::new();
    for words in [&["store", "--help"][..], &["dead", "ls", "-h"]] {
        assert!(
            service
                .printed(words)
                .starts_with("Usage: edgehold [flags] store ls")
        );
    }
}

#[test]
fn settings_prints_the_table_of_all_settings() {
    let service = Service::new();
    assert_eq!(
        service.printed(&["settings"]),
        edgehold::settings_table_markdown()
    );
}

/// A configuration and an event in a folder, and `pipeline test` on them.
struct PipelineTest {
    folder: TempDir,
}

impl PipelineTest {
    const EVENT: &str = r#"{"apiVersion":"v3","id":"d5471d59-2810-4419-8744-18eb8fa03465","deviceName":"pump-1",
        "profileName":"pump","sourceName":"T","origin":1712345678901234567,"readings":[{"origin":1712345678901234567,
        "deviceName":"pump-1","profileName":"pump","resourceName":"T","valueType":"Int8","value":"7"}]}"#;

    fn new(pipeline: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = format!("Writable:\n  Pipeline:\n{pipeline}");
        std::fs::write(folder.path().join("c.yaml"), configuration).unwrap();
        std::fs::write(folder.path().join("event.json"), Self::EVENT).unwrap();
        Self { folder }
    }

    fn run(&self, options: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_edgehold"))
            .env_clear()
            .env("EDGEX_SECURITY_SECRET_STORE", "false")
            .current_dir(self.folder.path())
            .args("pipeline test --config c.yaml --event event.json".split(' '))
            .args(options)
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

fn export_to(port: u16) -> PipelineTest {
    PipelineTest::new(&format!(
        "    ExecutionOrder: AddTags, HTTPExport, SetResponseData
    Functions:
      AddTags: {{ Parameters: {{ Tags: 'site:plant-1' }} }}
      HTTPExport: {{ Parameters: {{ Method: post, Url: 'http://127.0.0.1:{port}/x', MimeType: '' }} }}
      SetResponseData: {{ Parameters: {{ ResponseContentType: text/plain }} }}
"
    ))
}

#[test]
fn a_pipeline_is_tried_step_by_step_and_nothing_is_sent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let test = export_to(listener.local_addr().unwrap().port());

    let (code, printed, _) = test.run(&[]);

    assert_eq!(code, Some(0), "{printed}");
    for part in [
        "input: event\n   {\"apiVersion\":\"v3\"",
        "\npipeline default-pipeline\n1. AddTags: event\n   {",
        r#""tags":{"site":"plant-1"}}"#,
        "\n2. HTTPExport: not sent, ",
        "\n-. SetResponseData: not reached\n",
    ] {
        assert!(printed.contains(part), "no {part:?} in\n{printed}");
    }
    let connection = listener.accept();
    assert!(connection.is_err(), "it was sent: {connection:?}");
}

#[test]
fn a_tried_pipeline_sends_when_it_is_to_and_its_failure_is_the_exit_code() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let test = export_to(listener.local_addr().unwrap().port());
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let request = lines.next().unwrap().unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nthanks")
            .unwrap();
        // Until the client has had enough, so that what it still sends does not reset the connection.
        let _ = lines.count();
        request
    });

    let (code, printed, _) = test.run(&["--send"]);

    assert_eq!(server.join().unwrap(), "POST /x HTTP/1.1");
    assert_eq!(code, Some(0), "{printed}");
    let end = "2. HTTPExport: bytes\n   thanks\n3. SetResponseData: bytes, as it came\nresponse: text/plain\n   thanks\n";
    assert!(printed.ends_with(end), "{printed}");

    // The port is closed now.
    let (code, printed, _) = test.run(&["--send"]);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("2. HTTPExport: failed: "), "{printed}");
}

#[test]
fn pipelines_to_try_are_chosen_by_id_and_topic_and_what_cannot_be_tried_is_told() {
    let test = PipelineTest::new(
        "    PerTopicPipelines:
      a: { Id: one, Topics: 'events/+/a', ExecutionOrder: Never }
      b: { Id: two, Topics: 'events/#', ExecutionOrder: JSONLogic }
    Functions:
      Never: { Parameters: {} }
      JSONLogic: { Parameters: { Rule: '{\"==\":[{\"var\":\"deviceName\"},\"x\"]}' } }
",
    );
    let (code, _, told) = test.run(&[]);
    assert_eq!(code, Some(1));
    assert!(
        told.contains("'Never' is not the name of a known function"),
        "{told}"
    );

    let test = PipelineTest::new(
        "    PerTopicPipelines:
      a: { Id: one, Topics: 'events/+/a', ExecutionOrder: TransformJson }
      b: { Id: two, Topics: 'events/#', ExecutionOrder: JSONLogic }
    Functions:
      TransformJson: { Parameters: { Type: json } }
      JSONLogic: { Parameters: { Rule: '{\"==\":[{\"var\":\"deviceName\"},\"x\"]}' } }
",
    );
    for (options, tried) in [
        (&[][..], &["one", "two"][..]),
        (&["--pipeline", "two"], &["two"]),
        (&["--topic", "edgex/events/x/b"], &["two"]),
        (&["--topic=edgex/events/x/a"], &["one", "two"]),
    ] {
        let (code, printed, told) = test.run(options);
        assert_eq!(code, Some(0), "{printed}{told}");
        let ids: Vec<_> = printed
            .lines()
            .filter_map(|line| line.strip_prefix("pipeline "))
            .collect();
        assert_eq!(ids, tried);
        let stopped = printed.contains("1. JSONLogic: stopped here");
        assert!(stopped, "{printed}");
    }
    for (options, problem) in [
        (
            ["--pipeline", "three"],
            "there is no pipeline 'three', only one, two",
        ),
        (
            ["--topic", "edgex/other"],
            "no pipeline takes the topic 'edgex/other'",
        ),
        (["--config", "none.yaml"], "none.yaml"),
    ] {
        let (code, _, told) = test.run(&options);
        assert_eq!(code, Some(1));
        assert!(told.contains(problem), "{told}");
    }
    let (code, _, told) = test.run(&["--fast"]);
    assert_eq!(code, Some(2));
    assert!(told.contains("unknown option '--fast'"), "{told}");
}
