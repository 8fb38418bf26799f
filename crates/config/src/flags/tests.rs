use std::path::Path;

use super::*;

fn try_parse(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Parsed, FlagError> {
    let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
    let environment = environment
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    Flags::parse(&arguments, &environment)
}

#[track_caller]
fn parse(arguments: &[&str], environment: &[(&str, &str)]) -> (Flags, Vec<String>) {
    match try_parse(arguments, environment).unwrap() {
        Parsed::Run { flags, command } => (flags, command),
        Parsed::Help => panic!("help was not asked for: {arguments:?}"),
    }
}

#[track_caller]
fn provider(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let url = parse(arguments, environment).0.config_provider;
    url.map_or("none".to_owned(), |url| url.to_string())
}

#[test]
fn without_anything_the_defaults_hold() {
    let (flags, command) = parse(&[], &[]);
    assert_eq!(flags.config_provider, None);
    assert_eq!(flags.private_config_file(), Path::new("./res/configuration.yaml"));
    assert_eq!(flags.common_config, None);
    assert!(!flags.overwrite && !flags.registry && !flags.dev && !flags.skip_version_check);
    assert!(flags.secure, "secure unless the variable says exactly false");
    assert_eq!(flags.startup_duration, Duration::from_secs(60));
    assert_eq!(flags.startup_interval, Duration::from_secs(1));
    assert_eq!(flags.data_dir, Path::new("./data"));
    assert_eq!(flags.db_name, "edgex_db");
    assert_eq!(flags.generation(), 4);
    assert_eq!(command, [""; 0]);
}

#[test]
fn the_command_lines_of_the_images_are_understood() {
    let (flags, _) = parse(&["-cp=consul.http://edgex-core-consul:8500", "--registry"], &[]);
    assert_eq!(
        flags.config_provider.as_ref().unwrap().base_url(),
        "http://edgex-core-consul:8500"
    );
    assert_eq!(flags.generation(), 3);
    assert!(flags.registry);
    let (flags, _) = parse(&["--registry", "-cp=keeper.http://edgex-core-keeper:59890"], &[]);
    assert_eq!(flags.generation(), 4);
    assert!(flags.registry);
}

#[test]
fn the_provider_may_be_bare_and_may_stand_behind_a_space() {
    assert_eq!(provider(&["-cp"], &[]), "consul.http://localhost:8500");
    assert_eq!(
        provider(&["-cp"], &[("EDGEHOLD_GENERATION", "4")]),
        "keeper.http://localhost:59890"
    );
    assert_eq!(
        provider(&["-cp", "keeper.http://h:1", "-r"], &[]),
        "keeper.http://h:1"
    );
    assert_eq!(provider(&["-cp", "-r"], &[]), "consul.http://localhost:8500");
    assert_eq!(provider(&["-cp", "none"], &[]), "none");
    assert_eq!(
        provider(&["-cp", "store", "count"], &[]),
        "consul.http://localhost:8500"
    );
    assert_eq!(provider(&["-cp"], &[("EDGEX_CONFIG_PROVIDER", "none")]), "none");
    assert_eq!(
        provider(&[], &[("EDGEX_CONFIG_PROVIDER", "consul.http://h:2")]),
        "consul.http://h:2"
    );
    let (flags, _) = parse(&["-cp", "consul.http://h:1", "--registry"], &[]);
    assert!(flags.registry, "flags behind the URL still count");
    assert!(try_parse(&["-cp=nonsense"], &[]).is_err());
    assert!(
        try_parse(&["-cp=default"], &[]).is_err(),
        "our own placeholder is not a URL"
    );
}

#[test]
fn one_or_two_dashes_equals_sign_or_space() {
    for arguments in [&["-p=x"][..], &["--p", "x"], &["-profile", "x"], &["--profile=x"]] {
        let (flags, _) = parse(arguments, &[]);
        assert_eq!(flags.profile, "x", "{arguments:?}");
        assert_eq!(
            flags.private_config_file(),
            Path::new("./res/x/configuration.yaml")
        );
    }
    assert!(parse(&["-r"], &[]).0.registry);
    assert!(parse(&["-r=T"], &[]).0.registry);
    assert!(!parse(&["-r", "-r=false"], &[]).0.registry);
}

#[test]
fn a_variable_wins_over_a_flag() {
    let (flags, _) = parse(
        &[
            "-p",
            "flag",
            "-cd=dir",
            "-cf",
            "a.yaml",
            "-cc",
            "c.yaml",
            "-sk=k",
            "--data-dir",
            "d",
        ],
        &[
            ("EDGEX_PROFILE", "variable"),
            ("EDGEX_CONFIG_DIR", "dir2"),
            ("EDGEX_CONFIG_FILE", "b.yaml"),
            ("EDGEX_COMMON_CONFIG", "d.yaml"),
            ("EDGEX_SERVICE_KEY", "k2"),
            ("EDGEHOLD_DATA_DIR", "d2"),
        ],
    );
    assert_eq!(flags.private_config_file(), Path::new("dir2/variable/b.yaml"));
    assert_eq!(flags.common_config.as_deref(), Some(Path::new("d.yaml")));
    assert_eq!(flags.service_key("app-<profile>"), "k2");
    assert_eq!(flags.data_dir, Path::new("d2"));
    assert_eq!(parse(&["-p", "flag"], &[("EDGEX_PROFILE", "")]).0.profile, "flag");
}

#[test]
fn the_registry_variable_enables_with_one_word_only() {
    assert!(parse(&[], &[("EDGEX_USE_REGISTRY", "true")]).0.registry);
    for other in ["TRUE", "1", "false", "yes"] {
        assert!(
            !parse(&["-r"], &[("EDGEX_USE_REGISTRY", other)]).0.registry,
            "{other}"
        );
    }
}

#[test]
fn insecure_mode_needs_the_exact_word() {
    assert!(!parse(&[], &[("EDGEX_SECURITY_SECRET_STORE", "false")]).0.secure);
    for other in ["0", "False", "true", ""] {
        assert!(
            parse(&[], &[("EDGEX_SECURITY_SECRET_STORE", other)]).0.secure,
            "{other}"
        );
    }
}

#[test]
fn a_service_key_takes_the_profile_once() {
    let key = |arguments: &[&str]| parse(arguments, &[]).0.service_key("app-<profile>");
    assert_eq!(key(&["-p", "http-export"]), "app-http-export");
    assert_eq!(key(&[]), "app-");
    assert_eq!(key(&["-sk", "x-<profile>-<profile>", "-p", "y"]), "x-y-<profile>");
    assert_eq!(key(&["-sk", "plain", "-p", "y"]), "plain");
}

#[test]
fn a_file_may_be_an_address() {
    let (flags, _) = parse(&["-cf", "https://h/c.yaml", "-p", "x"], &[]);
    assert_eq!(as_uri(&flags.private_config_file()), Some("https://h/c.yaml"));
}

#[test]
fn remote_hosts_are_three_and_move_the_provider() {
    let (flags, _) = parse(&["-rsh", "me, core ,0.0.0.0", "-cp"], &[]);
    let hosts = flags.remote_service_hosts.unwrap();
    assert_eq!(
        (hosts.local.as_str(), hosts.core.as_str(), hosts.bind.as_str()),
        ("me", "core", "0.0.0.0")
    );
    assert_eq!(
        flags.config_provider.unwrap().to_string(),
        "consul.http://core:8500"
    );
    for wrong in ["a,b", "a,b,c,d", "a,,c", "a"] {
        assert!(try_parse(&["-rsh", wrong], &[]).is_err(), "{wrong}");
    }
}

#[test]
fn words_behind_the_flags_are_a_command() {
    assert_eq!(
        parse(&["-r", "store", "count", "--limit", "3"], &[]).1,
        ["store", "count", "--limit", "3"]
    );
    assert_eq!(parse(&["-r", "--", "-x"], &[]).1, ["-x"]);
    assert_eq!(parse(&["-"], &[]).1, ["-"]);
}

#[test]
fn mistakes_are_errors_that_name_the_flag() {
    let message = |arguments: &[&str], environment: &[(&str, &str)]| {
        try_parse(arguments, environment).unwrap_err().to_string()
    };
    assert_eq!(message(&["--wrong=1"], &[]), "unknown flag --wrong");
    assert_eq!(message(&["-p"], &[]), "flag -p needs a value");
    assert_eq!(
        message(&["-r=maybe"], &[]),
        "-r='maybe' cannot be used: it is not a boolean"
    );
    assert_eq!(
        message(&["-cp=consul.http://h"], &[]),
        "-cp='consul.http://h' cannot be used: the port is missing; write it as consul.http://localhost:8500 or \
         keeper.http://localhost:59890"
    );
    assert_eq!(
        message(&[], &[("EDGEHOLD_GENERATION", "5")]),
        "EDGEHOLD_GENERATION='5' cannot be used: it is neither 3 nor 4"
    );
    assert_eq!(
        message(&[], &[("EDGEHOLD_LOG_FORMAT", "JSON")]),
        "EDGEHOLD_LOG_FORMAT='JSON' cannot be used: it is neither logfmt nor json"
    );
}

#[test]
fn a_mistake_shows_no_password() {
    for (argument, shown) in [
        (
            "-cp=consuul.http://me:hush@h:1",
            "consuul.http://me:<redacted>@h:1",
        ),
        ("-cp=consul.http://me:hush@h:1", "consul.http://me:<redacted>@h:1"),
        (
            "--config-provider=http://me:hush@h:1",
            "unknown flag --config-provider",
        ),
        ("-r=http://me:hush@h:1", "http://me:<redacted>@h:1"),
    ] {
        let told = try_parse(&[argument], &[]).unwrap_err().to_string();
        assert!(told.contains(shown) && !told.contains("hush"), "{told}");
    }
    let told = try_parse(&[], &[("EDGEX_CONFIG_PROVIDER", "http://me:hush@h:1")]).unwrap_err();
    assert!(!told.to_string().contains("hush"), "{told}");
}

#[test]
fn help_is_asked_for_in_four_ways_and_names_every_flag() {
    for help in ["-h", "--h", "-help", "--help"] {
        assert_eq!(try_parse(&["-r", help], &[]), Ok(Parsed::Help));
    }
    for (short, long, _) in FLAGS {
        assert!(
            usage().contains(&format!("-{short}")) && usage().contains(&format!("--{long}")),
            "{long}"
        );
    }
}

#[test]
fn log_lines_have_the_form_of_edgex_unless_asked_otherwise() {
    let format = |text| parse(&[], &[("EDGEHOLD_LOG_FORMAT", text)]).0.log_format;
    assert_eq!(parse(&[], &[]).0.log_format, LogFormat::Logfmt);
    assert_eq!(
        (format("logfmt"), format("json"), format("")),
        (LogFormat::Logfmt, LogFormat::Json, LogFormat::Logfmt)
    );
}

#[test]
fn a_bad_duration_is_ignored_with_a_warning() {
    let (flags, _) = parse(
        &[],
        &[
            ("EDGEX_STARTUP_DURATION", "0"),
            ("EDGEX_STARTUP_INTERVAL", "5"),
            ("EDGEX_FILE_URI_TIMEOUT", "1m"),
            ("EDGEX_OVERWRITE_CONFIG", "maybe"),
        ],
    );
    assert_eq!(flags.startup_duration, Duration::from_secs(60));
    assert_eq!(flags.startup_interval, Duration::from_secs(5));
    assert_eq!(flags.file_uri_timeout, Duration::from_secs(60));
    assert_eq!(flags.warnings.len(), 2, "{:?}", flags.warnings);
    assert!(!parse(&["-o"], &[("EDGEX_OVERWRITE_CONFIG", "false")]).0.overwrite);
}

#[test]
fn what_has_no_effect_is_told_when_it_is_given() {
    assert_eq!(parse(&["-r"], &[]).0.not_in_effect, [""; 0]);
    let name = "EDGEX_DISABLE_JWT_VALIDATION";
    assert_eq!(parse(&[], &[(name, "true")]).0.not_in_effect, [name]);
}

#[test]
fn payloads_stand_in_base64_for_the_exact_word_and_that_has_an_effect() {
    for (text, base64) in [("true", true), ("TRUE", false), ("1", false), ("", false)] {
        let flags = parse(&[], &[("EDGEX_MSG_BASE64_PAYLOAD", text)]).0;
        assert_eq!(flags.base64_payload, base64, "{text:?}");
        assert_eq!(flags.not_in_effect, [""; 0]);
    }
    assert!(!parse(&[], &[]).0.base64_payload);
}
