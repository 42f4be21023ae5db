//! The words of a start: the same member by flags, environment and file; wrong words refused.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use testkit::{Cluster, Kind, Spec, left_out, quorate};

const MISSING: &str = "etcd or etcdctl is missing; run `make tools`";

/// Settings of every kind: text, list, number, switch, duration, beside those that place a member.
fn settings(cluster: &Cluster) -> Vec<(String, String)> {
    let member = &cluster.members[0];
    let mut settings: Vec<(String, String)> = member
        .flags
        .iter()
        .filter_map(|flag| flag.strip_prefix("--")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for (name, value) in [
        ("heartbeat-interval", "50"),
        ("election-timeout", "700"),
        ("quota-backend-bytes", "123456789"),
        ("pre-vote", "false"),
        ("max-txn-ops", "7"),
        ("grpc-keepalive-interval", "1h30m0s"),
        ("warning-apply-duration", "250ms"),
        ("auto-compaction-retention", "90m"),
        (
            "feature-gates",
            "LeaseCheckpoint=true,CompactHashCheck=true",
        ),
    ] {
        settings.push((name.to_owned(), value.to_owned()));
    }
    settings
}

/// As a file has it: numbers, switches and durations as what they are, durations in nanoseconds.
fn in_file(name: &str, value: &str) -> serde_json::Value {
    match (name, value) {
        ("grpc-keepalive-interval", _) => 5_400_000_000_000_u64.into(),
        ("warning-apply-duration", _) => 250_000_000.into(),
        (_, "true") => true.into(),
        (_, "false") => false.into(),
        _ => match value.parse::<u64>() {
            Ok(number) => number.into(),
            Err(_) => value.into(),
        },
    }
}

#[test]
fn the_same_settings_make_the_same_member_by_flag_environment_and_file() {
    let Some(mut cluster) = Cluster::prepare(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("same_member", MISSING);
    };
    let settings = settings(&cluster);
    let dir = cluster.dir().to_owned();
    let file = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).expect("a file");
        vec![format!("--config-file={}", path.display())]
    };
    let flags = |dashes: &str, between: &str| -> Vec<String> {
        let words = settings.iter().flat_map(|(name, value)| {
            let word = format!("{dashes}{name}{between}{value}");
            // A switch takes its value behind `=` only.
            let word = match name.as_str() {
                "pre-vote" => word.replace(' ', "="),
                _ => word,
            };
            let words = word.splitn(2, ' ').map(str::to_owned);
            words.collect::<Vec<_>>()
        });
        words.collect()
    };
    let yaml: String = settings
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", in_file(name, value)))
        .collect();
    let json: serde_json::Map<String, serde_json::Value> = settings
        .iter()
        .map(|(name, value)| (name.clone(), in_file(name, value)))
        .collect();
    let json = serde_json::Value::Object(json).to_string();
    let ways: [(&str, Vec<String>); 6] = [
        ("one dash", flags("-", "=")),
        ("two dashes", flags("--", " ")),
        ("the environment", Vec::new()),
        ("YAML", file("member.yaml", yaml)),
        ("JSON", file("member.json", json)),
        ("ETCD_CONFIG_FILE", Vec::new()),
    ];
    let member = &mut cluster.members[0];
    let mut first = None;
    for (way, flags) in ways {
        member.flags = flags;
        member.env = match way {
            "the environment" => settings
                .iter()
                .map(|(name, value)| {
                    let name = name.replace('-', "_").to_uppercase();
                    (format!("ETCD_{name}"), value.into())
                })
                .collect(),
            "ETCD_CONFIG_FILE" => vec![(way.to_owned(), dir.join("member.json").into())],
            _ => Vec::new(),
        };
        member.start();
        let log = member.log_text();
        let configuration = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find_map(|line| Some(line.get("configuration")?.as_str()?.to_owned()))
            .unwrap_or_else(|| panic!("{way}: no configuration in\n{log}"));
        for part in ["50ms", "123456789", "5400s", "250ms"] {
            assert!(configuration.contains(part), "{part}: {configuration}");
        }
        // The same disk serves on, so it is the same member to its cluster too.
        let put = member.etcdctl().json(&["put", "k", way]);
        let same = (configuration, put["header"]["member_id"].clone());
        assert_eq!(&same, first.get_or_insert_with(|| same.clone()), "{way}");
        member.terminate();
    }
    // etcd starts from the same file.
    member.kind = Kind::Etcd;
    member.flags = vec![format!(
        "--config-file={}",
        dir.join("member.yaml").display()
    )];
    member.env = Vec::new();
    member.start();
    let versions = member.etcdctl().json(&["get", "k"]);
    assert_eq!(versions["kvs"][0]["version"], 6, "{versions}");
}

/// Runs our program in an empty folder.
fn run(words: &[&str], env: &[(&str, &str)], dir: &Path) -> Output {
    let mut command = Command::new(quorate());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") {
            command.env_remove(name);
        }
    }
    command
        .args(words)
        .envs(env.iter().copied())
        .env("TMPDIR", dir)
        .current_dir(dir)
        .output()
        .expect("it runs")
}

#[test]
fn wrong_words_end_with_code_2_name_what_to_mend_and_touch_no_disk() {
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).expect("a file");
        format!("--config-file={}", path.display())
    };
    let unknown_key = file("unknown.yaml", "no-such-key: 1\n");
    let bad_value = file("value.yaml", "max-wals: many\n");
    let no_mapping = file("list.yaml", "- a\n- b\n");
    let no_yaml = file("broken.json", "{\"name\": ");
    let missing = format!("--config-file={}", files.path().join("none").display());
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        // Words that are no flags.
        (&["--no-such-flag=1"], &[], &["-no-such-flag", "--help"]),
        (&["member"], &[], &["\"member\"", "begin with -"]),
        (&["--name"], &[], &["flag needs an argument: -name"]),
        // Values that cannot be.
        (
            &["--max-wals=many"],
            &[],
            &["--max-wals", "\"many\"", "expected a whole number"],
        ),
        (
            &["--max-wals=-1"],
            &[],
            &["--max-wals", "\"-1\"", "expected 0 or more"],
        ),
        (
            &["-warning-apply-duration", "5"],
            &[],
            &["--warning-apply-duration", "\"5\"", "such as 100ms"],
        ),
        (
            &["--pre-vote=maybe"],
            &[],
            &["--pre-vote", "\"maybe\"", "expected true or false"],
        ),
        (
            &["--metrics=all"],
            &[],
            &["--metrics", "\"all\"", "expected basic or extensive"],
        ),
        (
            &["--initial-cluster-state=old"],
            &[],
            &[
                "--initial-cluster-state",
                "\"old\"",
                "expected new or existing",
            ],
        ),
        (
            &["--listen-peer-urls=http://host:1"],
            &[],
            &["--listen-peer-urls", "http://host:1", "expected IP"],
        ),
        (
            &["--auto-compaction-retention=4294967297"],
            &[],
            &["--auto-compaction-retention", "\"4294967297\"", "30m"],
        ),
        (
            &["--feature-gates=NoSuchGate=true"],
            &[],
            &["--feature-gates", "NoSuchGate"],
        ),
        (
            &["--log-outputs=made.log,none/at.log"],
            &[],
            &["--log-outputs", "\"none/at.log\"", "make it first"],
        ),
        (
            &["--cert-file=a.pem"],
            &[],
            &["--cert-file=a.pem", "TLS", "leave the flag out"],
        ),
        // Values that cannot be together; the log's file waits for the configuration.
        (
            &["--log-outputs=made.log", "--election-timeout=100"],
            &[],
            &[
                "--election-timeout[100ms]",
                "--heartbeat-interval[100ms]",
                "5 times",
            ],
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            &[],
            &[
                "--advertise-client-urls is required",
                "--listen-client-urls",
            ],
        ),
        (
            &["--listen-client-http-urls=http://localhost:2379"],
            &[],
            &[
                "--listen-client-urls and --listen-client-http-urls",
                "http://localhost:2379",
                "its own port",
            ],
        ),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            &[],
            &["LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"],
        ),
        (
            &[
                "--auto-compaction-mode=revision",
                "--auto-compaction-retention=1h",
            ],
            &[],
            &["--auto-compaction-retention", "\"1h\"", "of revisions"],
        ),
        // The environment.
        (
            &[],
            &[("ETCD_MAX_WALS", "many")],
            &["ETCD_MAX_WALS", "--max-wals", "\"many\"", "whole number"],
        ),
        (
            &[],
            &[("ETCD_CERT_FILE", "a.pem")],
            &["ETCD_CERT_FILE", "--cert-file=a.pem", "TLS"],
        ),
        // Files.
        (
            &[&unknown_key],
            &[],
            &["unknown.yaml", "-no-such-key", "--help"],
        ),
        (
            &[&bad_value],
            &[],
            &["value.yaml", "--max-wals", "\"many\""],
        ),
        (&[&no_mapping], &[], &["list.yaml", "mapping"]),
        (&[&no_yaml], &[], &["broken.json", "mapping"]),
        (&[&missing], &[], &["none", "cannot be read"]),
        // Commands beside the member.
        (
            &["local", "--no-such-flag"],
            &[],
            &["--no-such-flag", "--help"],
        ),
        (
            &["local", "--members=none"],
            &[],
            &["--members none", "from 1 to"],
        ),
        (
            &["bench", "put", "--no-such-flag"],
            &[],
            &["--no-such-flag", "--help"],
        ),
        (&["bench", "putt"], &[], &["\"putt\"", "expected put"]),
        (
            &["bench", "compare", "--only=putt"],
            &[],
            &["--only putt", "--help"],
        ),
    ];
    for (words, env, expected) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let output = run(words, env, dir.path());
        let said = String::from_utf8_lossy(&output.stderr);
        let case = format!("{words:?} {env:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{case}");
        for part in *expected {
            assert!(said.contains(part), "{part:?} is not in {case}");
        }
        let left = std::fs::read_dir(dir.path()).expect("the folder").count();
        assert_eq!(left, 0, "{case}");
    }
}

#[test]
fn a_log_file_is_its_owners_alone_and_an_unknown_variable_is_named() {
    let Some(mut cluster) = Cluster::prepare(&Spec::of(Kind::Quorate, 1)) else {
        return left_out("log_file", MISSING);
    };
    let path = cluster.dir().join("own.log");
    let member = &mut cluster.members[0];
    let outputs = format!("--log-outputs=stderr,{}", path.display());
    member.flags.push(outputs);
    member
        .env
        .push(("ETCD_NO_SUCH_FLAG".to_owned(), "1".into()));
    member.start();
    let mode = std::fs::metadata(&path)
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let log = std::fs::read_to_string(&path).expect("the file");
    let words = "unrecognized environment variable ETCD_NO_SUCH_FLAG";
    assert!(log.contains(words), "{log}");
}
