//! The image and the compose file, as far as that can be told without a container engine: what they name exists, and
//! what EdgeX expects of them is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use edgehold_config::{Layer, Layers, environment, file, resolve, yaml};

const PROFILES: [&str; 7] = [
    "external-mqtt-trigger",
    "functional-tests",
    "http-export",
    "metrics-influxdb",
    "mqtt-export",
    "rules-engine",
    "sample",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The instructions of the Dockerfile: name and arguments, further lines joined.
fn instructions() -> Vec<(String, String)> {
    let text = read("deploy/Dockerfile").replace("\\\n", " ");
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, arguments) = line.split_once(' ').unwrap();
            (name.to_owned(), arguments.to_owned())
        })
        .collect()
}

/// The instructions of one stage.
fn stage(name: &str) -> Vec<(String, String)> {
    instructions()
        .into_iter()
        .skip_while(|(instruction, arguments)| {
            instruction != "FROM" || !arguments.ends_with(&format!(" AS {name}"))
        })
        .skip(1)
        .take_while(|(instruction, _)| instruction != "FROM")
        .collect()
}

#[track_caller]
fn assert_has(stage: &[(String, String)], instruction: &str, arguments: &str) {
    let wanted = (instruction.to_owned(), arguments.to_owned());
    assert!(
        stage.contains(&wanted),
        "no {instruction} {arguments} in {stage:#?}"
    );
}

/// Whether the rules of the `.dockerignore` file let a path into the build: the last rule that matches it or a folder
/// above it decides.
fn is_sent(path: &str) -> bool {
    let mut sent = true;
    for rule in read("deploy/Dockerfile.dockerignore").lines() {
        let (rule, includes) = match rule.strip_prefix('!') {
            Some(rule) => (rule, true),
            None => (rule, false),
        };
        if rule == "*" || path == rule || path.starts_with(&format!("{rule}/")) {
            sent = includes;
        }
    }
    sent
}

#[test]
fn the_image_is_built_from_files_that_exist_and_are_sent() {
    let copied: Vec<String> = instructions()
        .into_iter()
        .filter(|(name, arguments)| name == "COPY" && !arguments.starts_with("--from="))
        .flat_map(|(_, arguments)| {
            let mut words: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
            words.pop();
            words
        })
        .collect();
    assert!(copied.len() >= 8, "{copied:?}");
    for path in copied {
        assert!(repository().join(&path).exists(), "{path} does not exist");
        assert!(is_sent(&path), "{path} is kept out by .dockerignore");
    }
    assert!(!is_sent("tests/fixtures/v3") && !is_sent("deploy/mosquitto.conf"));
}

#[test]
fn the_image_is_what_edgex_expects() {
    let service = stage("service");
    assert_has(&service, "ENTRYPOINT", "[\"/app-service-configurable\"]");
    assert_has(&service, "USER", "2002:2001");
    assert_has(&service, "WORKDIR", "/");
    assert_has(&service, "VOLUME", "/data");
    assert_has(&service, "ENV", "EDGEHOLD_DATA_DIR=/data");
    let (_, installs) = &service[0];
    for part in [
        "ca-certificates",
        "dumb-init",
        "ln -s app-service-configurable /edgehold",
        "install -d -o 2002 -g 2001 -m 0750 /data",
    ] {
        assert!(installs.contains(part), "no {part} in {installs}");
    }
    for (generation, provider) in [
        (3, "-cp=consul.http://edgex-core-consul:8500"),
        (4, "-cp=keeper.http://edgex-core-keeper:59890"),
    ] {
        let stage = stage(&format!("generation-{generation}"));
        assert_has(&stage, "CMD", &format!("[\"{provider}\", \"--registry\"]"));
        assert_has(&stage, "COPY", &format!("deploy/res/v{generation} /res"));
    }
}

#[test]
fn the_image_is_built_with_the_rust_that_the_workspace_asks_for() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("rust-version = \"").unwrap();
    let (version, _) = rest.split_once('"').unwrap();
    assert_has(&instructions(), "ARG", &format!("RUST_VERSION={version}"));
}

#[test]
fn the_profiles_of_the_image_are_those_of_edgex_and_every_setting_in_them_is_accepted() {
    for generation in ["v3", "v4"] {
        let folder = repository().join("deploy/res").join(generation);
        let found: BTreeSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(found, PROFILES.map(str::to_owned).into(), "{generation}");
        for profile in PROFILES {
            let path = format!("{generation}/{profile}");
            let edgex = format!("tests/fixtures/{generation}/config/{profile}/configuration.yaml");
            let ours = format!("deploy/res/{path}/configuration.yaml");
            assert_eq!(read(&ours), read(&edgex), "{path}");

            let layers = Layers {
                private: file::read_private(repository().join(&ours)).unwrap().layer,
                ..Layers::default()
            };
            let rejected = resolve(&layers, None).rejected;
            assert!(rejected.is_empty(), "{path}: {rejected:?}");
        }
    }
}

/// The variables of a service of the compose file, merged entries included.
fn variables(compose: &Layer, service: &str) -> BTreeMap<String, String> {
    let prefix = format!("services/{service}/environment/");
    compose
        .iter()
        .filter_map(|(path, value)| Some((path.strip_prefix(&prefix)?.to_owned(), value.to_owned())))
        .collect()
}

fn compose() -> Layer {
    yaml::parse(&read("deploy/compose.edgex-3.1.yaml")).unwrap()
}

#[test]
fn every_variable_of_the_compose_file_overrides_a_setting_of_its_service() {
    for (service, profile) in [
        ("app-rules-engine", "rules-engine"),
        ("app-http-export", "http-export"),
    ] {
        let mut variables = variables(&compose(), service);
        assert_eq!(
            variables.remove("EDGEX_SECURITY_SECRET_STORE").as_deref(),
            Some("false")
        );
        variables.remove("EDGEX_PROFILE");
        assert_eq!(variables["DATABASE_TYPE"], "sqlite", "{service}");
        let path = format!("deploy/res/v3/{profile}/configuration.yaml");
        let layers = Layers {
            private: file::read_private(repository().join(path)).unwrap().layer,
            ..Layers::default()
        };
        let found = environment::overrides(&variables, &layers).unwrap();
        assert_eq!(
            found.applied.len(),
            variables.len(),
            "{service}: {:?}",
            found.applied
        );
    }
}

#[test]
fn every_variable_of_the_common_configuration_names_a_key_of_it() {
    let common = yaml::parse(&read(
        "tests/fixtures/v3/config/core-common-config-bootstrapper/configuration.yaml",
    ))
    .unwrap();
    let known: BTreeSet<String> = common
        .iter()
        .map(|(path, _)| environment::variable_name(path))
        .collect();
    let variables = variables(&compose(), "core-common-config-bootstrapper");
    assert!(variables.len() > 4, "{variables:?}");
    for variable in variables.keys() {
        assert!(known.contains(variable), "{variable} overrides nothing");
    }
}

#[test]
fn the_compose_file_mounts_files_that_exist_and_a_volume_at_data() {
    let compose = compose();
    for service in ["app-rules-engine", "app-http-export"] {
        let volume = compose.get(&format!("services/{service}/volumes/0"));
        assert_eq!(volume, Some("edgehold-data:/data"), "{service}");
    }
    let configuration = compose.get("services/mqtt-broker/volumes/0").unwrap();
    assert!(configuration.contains("/mosquitto.conf:"), "{configuration}");
    assert!(repository().join("deploy/mosquitto.conf").exists());
}
