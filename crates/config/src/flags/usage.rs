//! What `-h` prints.

/// The help text.
pub fn usage() -> String {
    TEXT.to_owned()
}

const TEXT: &str = "Usage: [flags] [command]

Flags (one or two dashes; -flag=value or -flag value; an environment variable in brackets wins over the flag):
  -cp, --configProvider [URL]    configuration provider, {type}.{protocol}://{host}:{port}; without a URL
                                 consul.http://localhost:8500 (keeper.http://localhost:59890 with
                                 EDGEHOLD_GENERATION=4); 'none' turns it off [EDGEX_CONFIG_PROVIDER]
  -cc, --commonConfig FILE       common configuration, file or http(s) URI, read only without a configuration
                                 provider [EDGEX_COMMON_CONFIG]
  -o,  --overwrite               write the private file over what the provider has [EDGEX_OVERWRITE_CONFIG]
  -cf, --configFile FILE         private configuration, file name or http(s) URI; default configuration.yaml
                                 [EDGEX_CONFIG_FILE]
  -p,  --profile NAME            sub-folder of the configuration folder; fills <profile> in the service key
                                 [EDGEX_PROFILE]
  -cd, --configDir DIR           configuration folder; default ./res [EDGEX_CONFIG_DIR]
  -r,  --registry                register, and look other services up in the registry [EDGEX_USE_REGISTRY]
  -d,  --dev                     hybrid mode: this service runs natively, all others in containers of this machine
  -rsh, --remoteServiceHosts L,R,B
                                 remote mode: local host, host of the core services, host to listen at
                                 [EDGEX_REMOTE_SERVICE_HOSTS]
  -s,  --skipVersionCheck        do not compare the EdgeX version with core-metadata's
  -sk, --serviceKey KEY          service key; may contain <profile> [EDGEX_SERVICE_KEY]
       --data-dir DIR            folder of the SQLite store and the spool; default ./data [EDGEHOLD_DATA_DIR]
  -h,  --help                    print this text

Other environment variables:
  EDGEX_SECURITY_SECRET_STORE    'false' = secrets come from the configuration; default true
  EDGEX_STARTUP_DURATION         seconds the start may take; default 60
  EDGEX_STARTUP_INTERVAL         seconds between two tries at start; default 1
  EDGEX_FILE_URI_TIMEOUT         longest time to read a file from a URI; default 15s
  EDGEX_DBNAME                   database of the PostgreSQL store; default edgex_db
  EDGEX_DISABLE_JWT_VALIDATION   true = inbound requests go unchecked in secure mode too
  EDGEX_MSG_BASE64_PAYLOAD       true = payloads on the message bus are base64 texts
  EDGEX_MSG_CBOR_ENCODE          true = envelopes on the message bus are CBOR (EdgeX 4)
  EDGEHOLD_GENERATION            3 or 4: the EdgeX version to be compatible with; default by provider, else 4
  EDGEHOLD_LOG_FORMAT            logfmt or json: the form of log lines; default logfmt
  EDGEHOLD_ADMIN                 off, read or write: what REST may do with the error collection; default read
  SECTION_SETTING                overrides a setting, for example WRITABLE_STOREANDFORWARD_ENABLED=true

Commands of the edgehold binary, behind the flags: store (what waits), dead (what was given up), pipeline (tried on a
message), config (the configuration checked, shown, compared, changed), settings (the table of all settings), demo
(everything in one process, if built in); 'store --help', 'dead --help', 'pipeline --help' and 'config --help' have their
options.
";
