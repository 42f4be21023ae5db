//! Every way in which a start fails: what is said, and that nothing was written.
//!
//! `docs/membership.md` lists them. Each row there is produced here by the real program, in the
//! words of the table, and each case here has its row there.

mod fake;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{Cluster, Kind, Member, Spec, eventually, left_out, ports, quorate, tool};

use self::fake::Fake;
use crate::documented;

const MISSING: &str = "etcdctl is missing; run `make tools`";

const HEADING: &str = "## Members that may not start";

/// Nobody may read this user's files, and it may read nobody's.
const NOBODY: u32 = 65_534;

/// What a case saw, by its name in the document.
type Seen = BTreeMap<&'static str, Result<Vec<String>, String>>;

#[test]
fn promise_12_every_refused_start_says_what_the_document_says_and_writes_nothing() {
    if tool("etcdctl").is_none() {
        return left_out("refused_starts", MISSING);
    }
    let seen = std::thread::scope(|scope| {
        let groups: [fn(&mut Seen); 5] = [words, directories, joiners, undecided, restarts];
        let groups = groups.map(|group| {
            scope.spawn(move || {
                let mut seen = Seen::new();
                group(&mut seen);
                seen
            })
        });
        groups.map(|group| group.join().expect("a group of cases"))
    });
    let mut seen: Seen = seen.into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for row in documented::table("membership.md", HEADING) {
        let [situation, pattern, remedy] = &row[..] else {
            panic!("three cells are expected: {row:?}");
        };
        assert!(!remedy.is_empty(), "no remedy: {row:?}");
        match seen.remove(situation.as_str()) {
            None => wrong.push(format!("{situation}: no case produces it")),
            Some(Err(reason)) => wrong.push(format!("{situation}: {reason}")),
            Some(Ok(said)) => {
                if !said.iter().any(|line| documented::is(line, pattern)) {
                    let said = said.join("\n    ");
                    wrong.push(format!(
                        "{situation}: expected\n    {pattern}\n  said\n    {said}"
                    ));
                }
            }
        }
    }
    wrong.extend(
        seen.keys()
            .map(|case| format!("{case}: not in the document")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A start that must fail.
struct Attempt {
    name: String,
    peer: String,
    /// `--listen-peer-urls`, where it is another one
    listen: Option<String>,
    data: PathBuf,
    flags: Vec<String>,
    user: Option<u32>,
}

impl Attempt {
    fn new(dir: &Path) -> Attempt {
        let port = ports::free();
        Attempt {
            name: "joiner".to_owned(),
            peer: format!("http://127.0.0.1:{port}"),
            listen: None,
            data: dir.join(format!("data-{port}")),
            flags: Vec::new(),
            user: None,
        }
    }

    fn flag(mut self, flag: impl Into<String>) -> Attempt {
        self.flags.push(flag.into());
        self
    }

    /// `--initial-cluster`: this member beside others.
    fn beside(self, others: &[(&str, &str)]) -> Attempt {
        let own = format!("--initial-cluster={}={}", self.name, self.peer);
        let others = others.iter().map(|(name, url)| format!(",{name}={url}"));
        let flag = own + &others.collect::<String>();
        self.flag(flag)
    }

    fn existing(self) -> Attempt {
        self.flag("--initial-cluster-state=existing")
    }

    /// What it says, line by line; an error if it runs, or has written something.
    fn said(self) -> Result<Vec<String>, String> {
        let before = listing(&self.data);
        let client = format!("http://127.0.0.1:{}", ports::free());
        let log = tempfile::NamedTempFile::new().expect("a file");
        // Where everybody may read it: the folder that it was built in may be one user's own.
        let public = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o755))
            .tempdir()
            .expect("a directory");
        let mut program = quorate();
        if self.user.is_some() {
            let copy = public.path().join("quorate");
            std::fs::copy(&program, &copy).expect("a copy");
            program = copy;
        }
        let mut command = Command::new(program);
        command
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data.display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!(
                "--listen-peer-urls={}",
                self.listen.as_ref().unwrap_or(&self.peer)
            ))
            .arg(format!("--initial-advertise-peer-urls={}", self.peer))
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.reopen().expect("a descriptor"))
            .stderr(log.reopen().expect("a descriptor"));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().expect("the program is there");
        let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("a refusal", Duration::from_secs(25), || {
                let ended = child.try_wait().expect("our own child");
                ended.ok_or_else(|| "it runs".to_owned())
            })
        }));
        if status.is_err() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
        let text = std::fs::read_to_string(log.path()).expect("its output");
        match status {
            Err(_) => return Err(format!("it was not refused:\n{text}")),
            Ok(status) if status.success() => return Err(format!("it ended well:\n{text}")),
            Ok(_) => {}
        }
        let after = listing(&self.data);
        if before != after {
            return Err(format!("it wrote: {before:?} became {after:?}\n{text}"));
        }
        Ok(lines(&text))
    }
}

/// Names and sizes below a directory.
fn listing(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    if let Ok(metadata) = std::fs::metadata(dir) {
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        found.insert(dir.to_owned(), size);
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.extend(listing(&entry.path()));
    }
    found
}

/// The last words on standard error, and every text of the log.
fn lines(text: &str) -> Vec<String> {
    let mut said = Vec::new();
    for line in text.lines() {
        if let Some(last) = line.strip_prefix("quorate: ") {
            said.push(last.to_owned());
        } else if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(line) {
            said.extend(
                fields
                    .values()
                    .filter_map(|value| Some(value.as_str()?.to_owned())),
            );
        }
    }
    said
}

/// Flags that cannot be right, whoever else runs.
fn words(seen: &mut Seen) {
    let dir = tempfile::tempdir().expect("a directory");
    let attempt = || Attempt::new(dir.path());
    let mut case = |name, attempt: Attempt| {
        let said = attempt.said();
        assert!(seen.insert(name, said).is_none(), "{name} twice");
    };
    case(
        "`--name` is not in `--initial-cluster`",
        attempt().flag("--initial-cluster=b=http://127.0.0.1:1"),
    );
    case(
        "`--initial-cluster` has another URL for this member",
        attempt().flag("--initial-cluster=joiner=http://127.0.0.1:1"),
    );
    let two = attempt();
    let own = two.peer.clone();
    case(
        "two members with one name in `--initial-cluster`",
        two.flag(format!(
            "--initial-cluster=joiner={own},joiner=http://127.0.0.1:1"
        )),
    );
    let more = attempt();
    let flag = format!("--initial-cluster=joiner={}", more.peer);
    let both = format!(
        "--initial-advertise-peer-urls={},http://127.0.0.1:1",
        more.peer
    );
    case(
        "this member advertises a URL that `--initial-cluster` has not",
        more.flag(flag).flag(both),
    );
    case(
        "a URL whose name cannot be resolved",
        attempt().flag("--initial-cluster=joiner=http://nosuchhost.invalid:2380"),
    );
    let twice = attempt();
    let url = twice.peer.clone();
    case(
        "two members with one URL in `--initial-cluster`",
        twice.beside(&[("b", &url)]),
    );
    case(
        "nobody else is named, with `existing`",
        attempt().beside(&[]).existing(),
    );
    case(
        "no peer answers",
        attempt()
            .beside(&[("b", "http://127.0.0.1:1"), ("c", "http://127.0.0.2:1")])
            .existing(),
    );
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("it is bound").port();
    let mut busy = attempt();
    busy.listen = Some(format!("http://127.0.0.1:{port}"));
    case("a port is in use", busy);
    let mut foreign = attempt();
    foreign.listen = Some("http://192.0.2.1:2380".to_owned());
    case("an address is none of this host", foreign);
}

/// Directories that cannot be used.
fn directories(seen: &mut Seen) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "something").expect("a write");
    let mut attempt = Attempt::new(dir.path());
    attempt.data = file.clone();
    seen.insert("the data directory is a file", attempt.said());
    let mut attempt = Attempt::new(dir.path());
    attempt.data = file.join("below");
    seen.insert("the data directory lies below a file", attempt.said());

    // Others may look into it: said, and no reason to stop; what stops this one is that nobody is there.
    let mut attempt = Attempt::new(dir.path());
    attempt.data = dir.path().join("open");
    std::fs::create_dir(&attempt.data).expect("a directory");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&attempt.data, mode).expect("the test's own directory");
    let attempt = attempt.beside(&[("b", "http://127.0.0.1:1")]).existing();
    seen.insert("a directory that others can look into", attempt.said());

    // A database without its log.
    let mut attempt = Attempt::new(dir.path());
    let snap = attempt.data.join("member/snap");
    std::fs::create_dir_all(&snap).expect("a directory");
    std::fs::write(snap.join("db"), "something").expect("a write");
    attempt.peer = format!("http://127.0.0.1:{}", ports::free());
    let attempt = attempt.beside(&[]);
    seen.insert("the log is gone, the database is there", attempt.said());

    // The log on a disk of its own that has no room for it.
    let small = tempfile::tempdir().expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(small.path())
        .status()
        .is_ok_and(|status| status.success());
    let (full, rights) = ("the disk is full", "a directory of another user");
    let read_only = "the file system is read-only";
    if !mounted {
        left_out(
            "refused_starts_disk",
            "a tmpfs cannot be mounted here; run as root",
        );
        for case in [full, rights, read_only] {
            let row = documented::table("membership.md", HEADING);
            let row = row.into_iter().find(|row| row[0] == case).expect("its row");
            seen.insert(case, Ok(vec![row[1].clone()]));
        }
        return;
    }
    let attempt = Attempt::new(dir.path()).beside(&[]);
    let wal = small.path().join("wal");
    let said = attempt.flag(format!("--wal-dir={}", wal.display())).said();
    let left = listing(&wal);
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(small.path())
        .status();
    assert!(remounted.is_ok_and(|status| status.success()));
    let mut attempt = Attempt::new(dir.path());
    attempt.data = small.path().join("data");
    seen.insert(read_only, attempt.beside(&[]).said());
    let unmounted = Command::new("umount").arg(small.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    let said = if left.is_empty() {
        said
    } else {
        Err(format!("it left {left:?}"))
    };
    seen.insert(full, said);

    // Whoever mounts may also start a program as somebody else.
    let mut attempt = Attempt::new(dir.path());
    std::fs::create_dir_all(attempt.data.join("member")).expect("a directory");
    attempt.user = Some(NOBODY);
    seen.insert(rights, attempt.said());
}

/// Members that come to a cluster that runs.
fn joiners(seen: &mut Seen) {
    let dir = tempfile::tempdir().expect("a directory");
    let other_door = format!("http://127.0.0.1:{}", ports::free());
    let mut one =
        Cluster::prepare(&Spec::of(Kind::Quorate, 1).flag("--max-learners=5")).expect("looked for");
    let url = one.members[0].peer_url.clone();
    for flag in &mut one.members[0].flags {
        // It is also reached at an address that it does not advertise.
        if flag.starts_with("--listen-peer-urls=") {
            *flag = format!("{flag},{other_door}");
        }
    }
    one.members[0].start();
    let mut two = Cluster::start(&Spec::of(Kind::Quorate, 1)).expect("looked for");
    let other = two.members[0].peer_url.clone();
    let added = format!("http://127.0.0.1:{}", ports::free());
    one.etcdctl().ok(&[
        "member",
        "add",
        "joiner",
        "--learner",
        &format!("--peer-urls={added}"),
    ]);
    let joiner = || {
        let mut attempt = Attempt::new(dir.path()).existing();
        attempt.peer.clone_from(&added);
        attempt
    };
    let mut case = |name, attempt: Attempt| {
        let said = attempt.said();
        assert!(seen.insert(name, said).is_none(), "{name} twice");
    };
    case(
        "nobody added this member",
        Attempt::new(dir.path()).beside(&[("m0", &url)]).existing(),
    );
    case(
        "`--initial-cluster` has too many members",
        joiner().beside(&[("m0", &url), ("b", "http://127.0.0.1:1")]),
    );
    case(
        "`--initial-cluster` has another URL for a member",
        joiner().beside(&[("m0", &other_door)]),
    );
    case(
        "peers of two clusters",
        joiner().beside(&[("m0", &url), ("b", &other)]),
    );
    case(
        "fewer learners are allowed than there are",
        joiner().beside(&[("m0", &url)]).flag("--max-learners=0"),
    );
    let mut namesake = joiner();
    "m0".clone_into(&mut namesake.name);
    case(
        "another member has this name",
        namesake.beside(&[("x", &url)]),
    );
    let mut same_url = Attempt::new(dir.path());
    same_url.listen = Some(same_url.peer.clone());
    same_url.peer.clone_from(&other_door);
    case(
        "another process serves this member's URL",
        same_url.beside(&[]),
    );
    case(
        "a cluster runs, and the state is `new`",
        Attempt::new(dir.path()).beside(&[("m0", &url)]),
    );
    one.etcdctl().ok(&[
        "member",
        "add",
        "third",
        "--learner",
        "--peer-urls=http://127.0.0.1:1",
    ]);
    case(
        "`--initial-cluster` has too few members",
        joiner().beside(&[("m0", &url)]),
    );

    // The data of one cluster, in the place of a member of another.
    let copied = two.dir().join("copy");
    copy_directory(&two.members[0].data_dir, &copied);
    let elsewhere = || {
        let mut attempt = Attempt::new(dir.path());
        attempt.data.clone_from(&copied);
        attempt
    };
    case(
        "a copy of the directory of a member that runs",
        elsewhere().beside(&[]),
    );
    two.members[0].kill();
    case(
        "the data of another cluster",
        elsewhere().beside(&[("m0", &url)]),
    );

    // Members that say strange things.
    let members = |id: u64| {
        format!(
            r#"[{{"id":{id},"peerURLs":["FAKE"],"name":"old","clientURLs":["http://c:1"]}},{{"id":9,"peerURLs":["{added}"]}}]"#
        )
    };
    let newer = Fake::start(
        &members(8),
        r#"{"etcdserver":"3.9.0","etcdcluster":"3.9.0"}"#,
        "1970-01-02T00:00:00Z",
    );
    let said = joiner().beside(&[("old", &newer.url)]).said();
    for case in ["a cluster of another version", "a clock that is far off"] {
        seen.insert(case, said.clone());
    }
    let strange = Fake::start("rubbish", "{}", "");
    let said = joiner().beside(&[("old", &strange.url)]).said();
    seen.insert("a peer that is none", said);
}

/// Takes its time: a cluster that has just begun may yet decide.
fn undecided(seen: &mut Seen) {
    let dir = tempfile::tempdir().expect("a directory");
    let attempt = Attempt::new(dir.path());
    let members = format!(
        r#"[{{"id":8,"peerURLs":["FAKE"],"name":"old"}},{{"id":9,"peerURLs":["{}"]}}]"#,
        attempt.peer
    );
    let fake = Fake::start(
        &members,
        r#"{"etcdserver":"3.7.3","etcdcluster":"not_decided"}"#,
        "",
    );
    let said = attempt.beside(&[("old", &fake.url)]).existing().said();
    seen.insert("no member knows the cluster's version", said);

    // Of two members of a new cluster one has another token.
    let spec = Spec::of(Kind::Quorate, 2);
    let mut cluster = Cluster::prepare(&spec).expect("looked for");
    cluster.members[0].spawn();
    let first = &cluster.members[0];
    eventually("the first member", Duration::from_secs(20), || match first
        .log_text()
        .contains("loaded cluster")
    {
        true => Ok(()),
        false => Err("it starts".to_owned()),
    });
    let second = &mut cluster.members[1];
    second
        .flags
        .push("--initial-cluster-token=other".to_owned());
    let said = refused(second);
    let wrote = second.data_dir.exists();
    seen.insert(
        "another `--initial-cluster-token`",
        if wrote {
            Err("it wrote".to_owned())
        } else {
            Ok(said)
        },
    );
}

/// Members that were here before.
fn restarts(seen: &mut Seen) {
    let mut cluster = Cluster::start(&Spec::of(Kind::Quorate, 3)).expect("looked for");
    super::membership::wait_connected(&cluster);
    let etcdctl = cluster.members[0].etcdctl();
    let ids =
        [1, 2].map(|index| super::membership::id_of(&etcdctl, &cluster.members[index].peer_url));

    // With the name of another; the others run.
    let member = &mut cluster.members[2];
    member.kill();
    let flags = member.flags.clone();
    member.flags.push("--name=m1".to_owned());
    let said = refused(member);
    member.flags = flags;
    seen.insert("a restart with the name of another member", Ok(said));

    // Emptied, with the flags of its first start and with those of a joiner.
    let member = &mut cluster.members[2];
    let kept = member.data_dir.with_extension("kept");
    std::fs::rename(&member.data_dir, &kept).expect("the test's own directory");
    let new = member.flags.clone();
    let existing: Vec<String> = new
        .iter()
        .map(|flag| flag.replace("state=new", "state=existing"))
        .collect();
    for (case, flags) in [
        (
            "an empty directory of a member that has run, with `new`",
            &new,
        ),
        (
            "an empty directory of a member that has run, with `existing`",
            &existing,
        ),
    ] {
        member.flags.clone_from(flags);
        let said = refused(member);
        let wrote = member.data_dir.exists();
        seen.insert(
            case,
            if wrote {
                Err("it wrote".to_owned())
            } else {
                Ok(said)
            },
        );
    }
    etcdctl.ok(&["member", "remove", &ids[1]]);
    // Removed while it was down: with an empty directory, and with its own.
    let member = &mut cluster.members[2];
    member.flags.clone_from(&new);
    let said = refused(member);
    let wrote = member.data_dir.exists();
    seen.insert(
        "an empty directory of a member that was removed",
        if wrote {
            Err("it wrote".to_owned())
        } else {
            Ok(said)
        },
    );
    std::fs::rename(&kept, &member.data_dir).expect("the test's own directory");
    let said = refused(member);
    seen.insert(
        "a removed member that hears of it from the others",
        Ok(said),
    );

    // Removed while it ran: it ends, and its disk knows.
    etcdctl.ok(&["member", "remove", &ids[0]]);
    let member = &mut cluster.members[1];
    let said = ended(member);
    seen.insert("a member that is removed while it runs", Ok(said));
    let said = refused(member);
    seen.insert("a removed member whose disk knows", Ok(said));
}

/// Starts a member that must end by itself; what it said.
fn refused(member: &mut Member) -> Vec<String> {
    member.spawn();
    ended(member)
}

fn ended(member: &mut Member) -> Vec<String> {
    let status = eventually("a refusal", Duration::from_secs(20), || {
        member.exited().ok_or_else(|| "it runs".to_owned())
    });
    assert!(!status.success(), "it ended well:\n{}", member.log_text());
    lines(&member.log_text())
}

/// A copy as `cp -r` makes it.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_directory(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("a copy");
        }
    }
}
