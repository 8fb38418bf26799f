//! Holds the cut of the workspace: which crate may name which, who alone names a driver, what is stated only once. The
//! table is the one of `crates/ARCHITECTURE.md`; a change here is a decision, not a repair.
//!
//! Development dependencies are free, except that `test-support` is never anything else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Each crate by its folder, and the crates of ours that it may depend on. Arrows point inward: nothing above a line is
/// named below it, and adapters never name each other except as it stands here.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("contracts", &[]),
    ("core", &["contracts"]),
    ("config", &["core"]),
    ("store", &["core"]),
    ("functions", &["core", "contracts"]),
    ("mqtt", &["core"]),
    ("bus-redis", &["core"]),
    ("bus-nats", &["core"]),
    ("ingest", &["core", "contracts", "mqtt", "bus-redis", "bus-nats"]),
    ("export", &["core", "mqtt"]),
    ("consul", &["core", "config"]),
    ("keeper", &["core", "config"]),
    ("secrets", &["core", "config"]),
    ("store-sealed", &["core", "store"]),
    ("store-sqlite", &["core", "store"]),
    ("store-postgres", &["core", "store"]),
    ("store-redis", &["core", "store"]),
    ("store-jetstream", &["core", "store"]),
    ("runtime", &["core", "contracts", "config", "store"]),
    ("telemetry", &["core", "contracts", "config"]),
    ("clients", &["core", "contracts", "config"]),
    ("api", &["contracts", "core", "config", "store", "runtime"]),
    (
        "sdk",
        &[
            "contracts",
            "core",
            "config",
            "store",
            "functions",
            "mqtt",
            "bus-redis",
            "bus-nats",
            "ingest",
            "export",
            "consul",
            "keeper",
            "secrets",
            "store-sealed",
            "store-sqlite",
            "store-postgres",
            "store-redis",
            "store-jetstream",
            "runtime",
            "telemetry",
            "clients",
            "api",
        ],
    ),
    ("app", &["sdk"]),
    ("test-support", &[]),
    ("bench", &["contracts", "mqtt"]),
    ("tests", &["sdk", "app", "test-support"]),
    ("fuzz-targets", &["contracts", "core", "config", "functions"]),
];

/// A driver, and the only crates that may name it: so that replacing it is the work of one crate.
const ONLY_NAMED_BY: &[(&str, &[&str])] = &[
    ("rumqttc", &["mqtt"]),
    ("async-nats", &["bus-nats", "store-jetstream"]),
    ("sqlx", &["store-sqlite", "store-postgres"]),
    ("zstd", &["store-sealed"]),
    ("consulrs", &["consul"]),
    ("reqwest", &["export", "consul", "keeper", "clients"]),
    ("axum", &["api"]),
    ("hyper", &["api"]),
    ("rumqttd", &["app"]),
];

/// What the pure crates may use of tokio. They neither spawn, sleep, read a clock nor open anything.
const PURE_TOKIO_FEATURES: &[(&str, &[&str])] =
    &[("contracts", &[]), ("core", &["sync"]), ("functions", &[])];

/// What every crate takes from the workspace instead of stating it again.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

#[test]
fn crates_depend_only_on_what_the_table_allows() -> Result<()> {
    let mut wrong = Vec::new();
    for member in members()? {
        let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(folder, _)| *folder == member.folder) else {
            wrong.push(format!("{} is not in the table", member.folder));
            continue;
        };
        for dependency in member
            .dependencies
            .iter()
            .filter(|dependency| !dependency.development)
        {
            if let Some(folder) = &dependency.folder
                && !allowed.contains(&folder.as_str())
            {
                wrong.push(format!("{} may not depend on {folder}", member.folder));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

/// `make run` and others say `cargo run` without a name: with two binaries, only a default tells which one.
#[test]
fn cargo_run_knows_which_binary_is_meant() -> Result<()> {
    let app = members()?.into_iter().find(|member| member.folder == "app");
    let default_run = app.context("there is an app")?.default_run;
    assert_eq!(default_run.as_deref(), Some("edgehold"));
    Ok(())
}

#[test]
fn test_support_is_for_tests_alone() -> Result<()> {
    let mut wrong = Vec::new();
    for member in members()? {
        let uses = |dependency: &Dependency| dependency.folder.as_deref() == Some("test-support");
        if member
            .dependencies
            .iter()
            .any(|dependency| uses(dependency) && !dependency.development)
        {
            wrong.push(member.folder);
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_driver_is_named_only_by_its_crate() -> Result<()> {
    let mut wrong = Vec::new();
    for member in members()? {
        for dependency in member
            .dependencies
            .iter()
            .filter(|dependency| !dependency.development)
        {
            let rule = ONLY_NAMED_BY
                .iter()
                .find(|(driver, _)| *driver == dependency.name);
            if rule.is_some_and(|(_, owners)| !owners.contains(&member.folder.as_str())) {
                wrong.push(format!("{} may not name {}", member.folder, dependency.name));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

#[test]
fn pure_crates_have_no_clock_no_tasks_and_no_files() -> Result<()> {
    let mut wrong = Vec::new();
    for member in members()? {
        let Some((_, allowed)) = PURE_TOKIO_FEATURES
            .iter()
            .find(|(folder, _)| *folder == member.folder)
        else {
            continue;
        };
        for dependency in member
            .dependencies
            .iter()
            .filter(|dependency| !dependency.development)
        {
            if dependency.name != "tokio" {
                continue;
            }
            if allowed.is_empty() {
                wrong.push(format!("{} may not name tokio", member.folder));
            }
            for feature in dependency
                .features
                .iter()
                .filter(|feature| !allowed.contains(&feature.as_str()))
            {
                wrong.push(format!("{} may not use tokio's {feature}", member.folder));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

#[test]
fn versions_lints_and_dependencies_are_stated_once() -> Result<()> {
    let mut wrong = Vec::new();
    for member in members()? {
        let manifest = std::fs::read_to_string(&member.manifest)
            .with_context(|| format!("reading {}", member.manifest.display()))?;
        let tables = tables(&manifest);
        let lines = |table: &str| tables.get(table).cloned().unwrap_or_default();

        let package = lines("package");
        for key in INHERITED {
            if !package.contains(&format!("{key}.workspace = true").as_str()) {
                wrong.push(format!("{}: {key} is not that of the workspace", member.folder));
            }
        }
        if lines("lints") != ["workspace = true"] {
            wrong.push(format!("{}: lints are not those of the workspace", member.folder));
        }
        for (table, lines) in &tables {
            if !table.contains("dependencies") {
                continue;
            }
            for line in lines.iter().filter(|line| !line.contains("workspace = true")) {
                wrong.push(format!(
                    "{}: [{table}] {line} is not stated by the workspace",
                    member.folder
                ));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    Ok(())
}

/// So that what is fuzzed is what is built, and `make fuzz` does not stop because a dependency was added.
#[test]
fn the_fuzz_project_locks_what_the_workspace_locks() -> Result<()> {
    let lock = |path: &str| std::fs::read_to_string(workspace_root().join(path)).context(path.to_owned());
    let (ours, fuzz) = (lock("Cargo.lock")?, lock("tests/fuzz/Cargo.lock")?);
    let (ours, fuzz) = (locked(&ours), locked(&fuzz));
    let mut wrong = Vec::new();
    for (name, package) in &fuzz {
        let others = ours.get(name).map(|package| &package.versions);
        for version in &package.versions {
            if others.is_some_and(|others| !others.contains(version)) {
                wrong.push(format!("{name} {version} is {others:?} in the workspace"));
            }
        }
    }
    let mut compared = 0;
    for member in members()? {
        let Some(package) = fuzz.get(member.name.as_str()) else {
            continue;
        };
        compared += 1;
        let needed = member
            .dependencies
            .iter()
            .filter(|dependency| !dependency.development);
        let needed: BTreeSet<&str> = needed.map(|dependency| dependency.name.as_str()).collect();
        if needed != package.dependencies {
            wrong.push(format!("{} needs {needed:?}", member.name));
        }
    }
    ensure!(compared > 3, "only {compared} crates of ours are fuzzed");
    assert_eq!(
        wrong,
        Vec::<String>::new(),
        "`cargo metadata --manifest-path tests/fuzz/Cargo.toml` brings the lock file up to date"
    );
    Ok(())
}

/// What a lock file says of the packages with a name.
#[derive(Default)]
struct Locked<'a> {
    versions: BTreeSet<&'a str>,
    dependencies: BTreeSet<&'a str>,
}

fn locked(lock: &str) -> BTreeMap<&str, Locked<'_>> {
    let mut packages: BTreeMap<&str, Locked<'_>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let mut lines = package.lines();
            lines
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
                .map(|text| text.trim_matches('"'))
        };
        let packages = packages.entry(value("name").unwrap_or_default()).or_default();
        packages.versions.extend(value("version"));
        // Indented: `"name"`, or `"name version"` where there are several.
        let dependencies = package.lines().filter_map(|line| line.strip_prefix(" \""));
        packages
            .dependencies
            .extend(dependencies.filter_map(|line| line.split([' ', '"']).next()));
    }
    packages
}

#[test]
fn no_tracked_file_holds_a_path_of_somebodys_machine() -> Result<()> {
    // Folders in which people and build machines keep their work. Put together here, so that this file does not hold them.
    let folders = ["work", "root", "home", "farm", "Users"]
        .map(|name| format!("/{name}/"))
        .join("|");
    let pattern = format!("(^|[^A-Za-z0-9_.$}}-])({folders}|/tmp/[t]arget)[A-Za-z0-9_.-]");
    let output = Command::new("git")
        .args(["grep", "-nIE", &pattern, "--", ".", ":!*.lock"])
        .current_dir(workspace_root())
        .output()
        .context("starting git: the sources are to be a clone")?;

    // git grep answers 1 when it finds nothing.
    let found = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() <= Some(1),
        "git grep: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(found, "");
    Ok(())
}

struct Member {
    name: String,
    /// The folder below `crates` or `tests`, or `tests`.
    folder: String,
    manifest: PathBuf,
    /// The binary that `cargo run` runs when there is more than one.
    default_run: Option<String>,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    /// For a crate of ours, its folder.
    folder: Option<String>,
    features: BTreeSet<String>,
    development: bool,
}

/// The crates of this workspace, as cargo reads them. Without the crates of others, so it needs no network.
fn members() -> Result<Vec<Member>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace_root())
        .output()
        .context("starting cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).context("reading cargo's metadata")?;

    let packages = metadata["packages"]
        .as_array()
        .context("metadata without packages")?;
    let members: Vec<Member> = packages.iter().map(member).collect::<Result<_>>()?;
    ensure!(
        members.len() > 10,
        "the workspace has only {} crates",
        members.len()
    );
    Ok(members)
}

fn member(package: &Value) -> Result<Member> {
    let manifest = Path::new(
        package["manifest_path"]
            .as_str()
            .context("a package without manifest")?,
    );
    let dependencies = package["dependencies"]
        .as_array()
        .context("a package without dependencies")?;
    Ok(Member {
        name: package["name"].as_str().unwrap_or_default().to_owned(),
        folder: folder_name(manifest.parent().context("a manifest in no folder")?),
        manifest: manifest.to_owned(),
        default_run: package["default_run"].as_str().map(str::to_owned),
        dependencies: dependencies.iter().map(dependency).collect(),
    })
}

fn dependency(dependency: &Value) -> Dependency {
    let features = dependency["features"].as_array().into_iter().flatten();
    Dependency {
        name: dependency["name"].as_str().unwrap_or_default().to_owned(),
        folder: dependency["path"]
            .as_str()
            .map(|path| folder_name(Path::new(path))),
        features: features.filter_map(Value::as_str).map(str::to_owned).collect(),
        development: dependency["kind"] == "dev",
    }
}

fn folder_name(folder: &Path) -> String {
    folder
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the suites are a folder of the workspace")
}

/// The lines of each `[table]` of a manifest, without empty ones, comments, and the further lines of lists.
fn tables(manifest: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut current = "";
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            current = name.trim_matches(['[', ']']);
        } else if line.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            tables.entry(current).or_default().push(line);
        }
    }
    tables
}
