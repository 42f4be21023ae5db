//! `quorate util recover`: the quorum is lost for good, and one survivor's disk becomes a cluster of one.
//!
//! ```text
//!   show     every disk: whose, how far; what would be lost          nothing is changed
//!   check    the IDs that were told are the disk's, nobody holds it, nothing better is at hand
//!   copy     the whole disk, beside
//!   write    removals of everybody else behind the log's end, committed
//! ```
//!
//! What the survivor's log holds is kept to its end. The last entries of a follower's log are not known
//! to be committed there, but the lost majority may have acknowledged them, so to drop them (as
//! `--force-new-cluster` does) could lose a write that is there; to keep them can at most complete a
//! write whose caller never heard of it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use membership::{MemberId, Uncommitted, leave_alone};
use seams::{Disk, OpenMode, RealDisk};
use wal::Wal;

use crate::arguments::Arguments;
use crate::copy::Copy;
use crate::show;
use crate::survey::{Paths, Survey, look, survey};

const USAGE: &str = "\
Usage:

  quorate util recover --data-dir DIR [--data-dir DIR ...]
  quorate util recover --data-dir DIR [--data-dir DIR ...] --member-id ID --cluster-id ID

The first form shows what each survivor's disk holds, and what would be lost by going on with it.
The second makes the disk of that member a cluster of one, as --force-new-cluster does. The members of
these disks must not run. Give every disk that is left: the one whose log is longest loses least.

Flags:
  --data-dir DIR      a survivor's data directory; may be repeated
  --wal-dir DIR       its log, where that lies elsewhere; only with one --data-dir
  --member-id ID      whose disk to go on with, as shown
  --cluster-id ID     of which cluster, as shown
  --copy-to DIR       where the copy of the disk goes (beside it: DIR.before-recover-<seconds since 1970>)
  --drop-uncommitted  drop the entries that the survivor does not know to be committed, as
                      --force-new-cluster does; they may have been acknowledged
  --accept-loss       go on although the disks shown are a quorum, or another one has more
";

/// What to do, and with which disk.
#[derive(Debug)]
struct Order {
    paths: Vec<Paths>,
    told: Option<(MemberId, u64)>,
    copy_to: Option<PathBuf>,
    uncommitted: Uncommitted,
    accept_loss: bool,
}

pub(crate) fn main(arguments: &[String]) -> Result<()> {
    if arguments
        .iter()
        .any(|word| matches!(word.as_str(), "-h" | "--help"))
    {
        show(USAGE);
        return Ok(());
    }
    let order = Order::read(arguments)?;
    let seconds = std::time::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    recover(&disk, &order, seconds, &seams::free_bytes, &mut show)
}

impl Order {
    fn read(arguments: &[String]) -> Result<Order> {
        let given = Arguments::read(
            arguments,
            &["data-dir", "wal-dir", "member-id", "cluster-id", "copy-to"],
            &["drop-uncommitted", "accept-loss"],
        )?;
        let data_dirs = given.all("data-dir");
        ensure!(
            !data_dirs.is_empty(),
            "--data-dir is missing: the disk of a survivor"
        );
        let wal_dir = given.one("wal-dir")?.map(PathBuf::from);
        ensure!(
            wal_dir.is_none() || data_dirs.len() == 1,
            "--wal-dir goes with one --data-dir"
        );
        let told = match (given.one("member-id")?, given.one("cluster-id")?) {
            (None, None) => None,
            (Some(member), Some(cluster)) => Some((
                MemberId(hexadecimal("member-id", member)?),
                hexadecimal("cluster-id", cluster)?,
            )),
            _ => bail!("--member-id and --cluster-id go together: both as shown without them"),
        };
        Ok(Order {
            paths: data_dirs
                .into_iter()
                .map(|dir| Paths {
                    data_dir: dir.into(),
                    wal_dir: wal_dir.clone(),
                })
                .collect(),
            told,
            copy_to: given.one("copy-to")?.map(PathBuf::from),
            uncommitted: if given.is_set("drop-uncommitted") {
                Uncommitted::Drop
            } else {
                Uncommitted::Keep
            },
            accept_loss: given.is_set("accept-loss"),
        })
    }
}

fn hexadecimal(flag: &str, text: &str) -> Result<u64> {
    u64::from_str_radix(text, 16)
        .with_context(|| format!("--{flag}={text}: expected up to 16 hexadecimal digits, as shown"))
}

fn recover(
    disk: &Arc<dyn Disk>,
    order: &Order,
    unix_seconds: u64,
    free: &dyn Fn(&Path) -> io::Result<u64>,
    show: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut survivors = Vec::new();
    for paths in &order.paths {
        let found = survey(disk, paths)
            .with_context(|| format!("{} cannot be recovered from", paths.data_dir.display()))?;
        show(&describe(&found));
        survivors.push(found);
    }
    let Some((member, cluster)) = order.told else {
        for survivor in &survivors {
            show(&prospect(survivor, &survivors, order.uncommitted));
        }
        show(&hint(&survivors, order.uncommitted));
        return Ok(());
    };
    let there = || {
        let ids = survivors.iter().map(|survivor| {
            format!(
                "member {} of cluster {:x}",
                survivor.member, survivor.cluster
            )
        });
        ids.collect::<Vec<_>>().join(", ")
    };
    let Some(chosen) = survivors
        .iter()
        .find(|survivor| survivor.member == member && survivor.cluster == cluster)
    else {
        bail!(
            "member {member} of cluster {cluster:x} is not there; what is there: {}. Nothing was changed",
            there()
        );
    };
    ensure!(
        !chosen.removed.contains(&member),
        "member {member} was removed from cluster {cluster:x}: its data are old, and its ID can never come back. Nothing was changed"
    );
    show(&prospect(chosen, &survivors, order.uncommitted));
    let objections = objections(chosen, &survivors);
    ensure!(
        objections.is_empty() || order.accept_loss,
        "{}. Nothing was changed; to go on all the same, add --accept-loss",
        objections.join("; ")
    );
    show(&write(disk, order, chosen, unix_seconds, free)?);
    Ok(())
}

/// Copies the disk, then changes its log.
fn write(
    disk: &Arc<dyn Disk>,
    order: &Order,
    chosen: &Survey,
    unix_seconds: u64,
    free: &dyn Fn(&Path) -> io::Result<u64>,
) -> Result<String> {
    let paths = &chosen.paths;
    let database = paths.database();
    // Held to the end: no member may start on this disk meanwhile.
    let lock = disk
        .open(&database, OpenMode::ReadWrite)
        .with_context(|| format!("{} cannot be opened", database.display()))?;
    ensure!(
        lock.try_lock_exclusive()
            .with_context(|| format!("{} cannot be locked", database.display()))?,
        "a process holds {}; nothing was changed",
        database.display()
    );
    let now = look(disk, paths, true)?;
    let end = |survey: &Survey| {
        (
            survey.last_term(),
            survey.last_index(),
            survey.log.hard_state,
        )
    };
    ensure!(
        end(&now) == end(chosen),
        "{} has changed since it was shown: a member ran on it. Nothing was changed by us; look again",
        paths.data_dir.display()
    );
    let alone = leave_alone(&now.as_log(), now.member, order.uncommitted).map_err(|error| {
        anyhow::anyhow!(
            "member {}: {error}: it is none of the members by its own log, so its data are not the cluster's. Nothing was changed",
            now.member
        )
    })?;

    if alone.forced.is_empty() && alone.hard_state == now.log.hard_state {
        return Ok(format!(
            "Nothing to do: member {} is alone in cluster {:x} already. Nothing was changed.\n",
            now.member, now.cluster
        ));
    }

    let copy = Copy::of(disk, paths)?;
    let to = order.copy_to.clone().unwrap_or_else(|| {
        let mut name = paths.data_dir.as_os_str().to_owned();
        name.push(format!(".before-recover-{unix_seconds}"));
        PathBuf::from(name)
    });
    copy.to(&to, free).context("nothing was changed")?;

    let (mut wal, on_disk) = Wal::open(disk.clone(), &paths.wal(), now.snapshot.clone())
        .context("the log cannot be opened for writing; nothing was changed")?;
    ensure!(
        on_disk.entries.len() == now.log.entries.len(),
        "the log in {} reads differently when it is opened for writing; the copy in {} is whole",
        paths.wal().display(),
        to.display()
    );
    wal.save(Some(&alone.hard_state), &alone.forced)?;
    wal.close()?;
    drop(lock);

    let mut text = String::new();
    let _ = writeln!(
        text,
        "copied     {} ({}) to {}",
        paths.data_dir.display(),
        size(copy.bytes),
        to.display()
    );
    let _ = writeln!(
        text,
        "recovered  member {} is alone in cluster {:x}; its log now ends at index {}",
        now.member, now.cluster, alone.hard_state.commit
    );
    let _ = write!(
        text,
        "\
next
  1. Never start the other members' old disks again: those that were a quorum would be one again, of
     the old cluster. Delete them.
  2. Start this member as before; what --initial-cluster says is not looked at.
  3. Add the others as new members, one at a time, with empty directories:
       etcdctl member add NAME --learner --peer-urls=URL
       start it with --initial-cluster-state=existing
       etcdctl member promote ID
  4. When all is well, delete {}.
",
        to.display()
    );
    Ok(text)
}

/// One disk, in words.
fn describe(survivor: &Survey) -> String {
    let Survey {
        member, cluster, ..
    } = survivor;
    let mut text = String::new();
    let _ = writeln!(text, "disk       {}", survivor.paths.data_dir.display());
    let name = survivor.name_of(*member).unwrap_or("(without a name)");
    let _ = writeln!(text, "  member   {member} {name}, of cluster {cluster:x}");
    let _ = writeln!(
        text,
        "  log      ends at index {} of term {}; {} is committed as far as this member knows",
        survivor.last_index(),
        survivor.last_term(),
        survivor.committed()
    );
    let _ = writeln!(
        text,
        "  data     revision {} at index {}, {}",
        survivor.revision,
        survivor.applied.index,
        size(survivor.database_bytes)
    );
    for other in &survivor.members {
        let _ = writeln!(
            text,
            "  cluster  {} {} {}{}",
            other.id,
            if other.is_learner { "learner" } else { "voter" },
            if other.name.is_empty() {
                "(not started)"
            } else {
                &other.name
            },
            if other.id == *member {
                ", this disk"
            } else {
                ""
            }
        );
    }
    if survivor.removed.contains(member) {
        let _ = writeln!(
            text,
            "  removed  this member was removed: its disk is of no use"
        );
    }
    text
}

/// What going on with this disk would mean.
fn prospect(chosen: &Survey, survivors: &[Survey], uncommitted: Uncommitted) -> String {
    let mut text = format!("going on with member {}\n", chosen.member);
    let tail = chosen.last_index().saturating_sub(chosen.committed());
    if tail > 0 {
        let what = match uncommitted {
            Uncommitted::Keep => "kept: they may have been acknowledged",
            Uncommitted::Drop => "dropped, and may have been acknowledged",
        };
        let _ = writeln!(
            text,
            "  its last {} would be {what}",
            count(
                tail,
                "entry that it does not know to be committed",
                "entries that it does not know to be committed"
            )
        );
    }
    for other in survivors {
        let more = more_than(other, chosen);
        if more > 0 {
            let _ = writeln!(
                text,
                "  lost: {} of member {}, whose log ends at index {} of term {}",
                count(more, "entry", "entries"),
                other.member,
                other.last_index(),
                other.last_term()
            );
        }
    }
    let _ = writeln!(
        text,
        "  lost: whatever members that are not shown acknowledged after index {}; nobody can tell without their disks",
        chosen.last_index()
    );
    let others: Vec<String> = chosen
        .members
        .iter()
        .filter(|member| member.id != chosen.member)
        .map(|member| member.id.to_string())
        .collect();
    if !others.is_empty() {
        let _ = writeln!(text, "  removed for ever: {}", others.join(", "));
    }
    text
}

/// Entries that `other` has and `chosen` has not, when raft would prefer `other`'s log.
fn more_than(other: &Survey, chosen: &Survey) -> u64 {
    let end = |survey: &Survey| (survey.last_term(), survey.last_index());
    if other.cluster != chosen.cluster || end(other) <= end(chosen) {
        return 0;
    }
    let same = |index: u64| {
        let term = |survey: &Survey| {
            let entries = &survey.log.entries;
            let first = entries.first()?.index;
            let at = usize::try_from(index.checked_sub(first)?).ok()?;
            entries.get(at).map(|entry| entry.term)
        };
        // What is before both logs' entries is in snapshots, hence committed and the same.
        match (term(other), term(chosen)) {
            (Some(one), Some(two)) => one == two,
            _ => index <= other.snapshot.index.max(chosen.snapshot.index),
        }
    };
    let mut common = chosen.last_index().min(other.last_index());
    let floor = other.snapshot.index.min(chosen.snapshot.index);
    while common > floor && !same(common) {
        common -= 1;
    }
    (other.last_index() - common).max(1)
}

/// Why it would be wrong to go on with this disk.
fn objections(chosen: &Survey, survivors: &[Survey]) -> Vec<String> {
    let mut objections = Vec::new();
    let voters: Vec<MemberId> = chosen
        .members
        .iter()
        .filter(|member| !member.is_learner)
        .map(|member| member.id)
        .collect();
    let mut shown: Vec<MemberId> = survivors
        .iter()
        .filter(|survivor| survivor.cluster == chosen.cluster)
        .map(|survivor| survivor.member)
        .filter(|id| voters.contains(id))
        .collect();
    shown.sort_unstable();
    shown.dedup();
    let need = voters.len() / 2 + 1;
    if voters.len() > 1 && shown.len() >= need {
        objections.push(format!(
            "the quorum is not lost: {} of {} voters' disks are here, {need} are needed; start them, and nothing is lost",
            shown.len(),
            voters.len()
        ));
    }
    for other in survivors {
        let more = more_than(other, chosen);
        if more > 0 {
            objections.push(format!(
                "member {} has {} more than member {}; go on with that one",
                other.member,
                count(more, "entry", "entries"),
                chosen.member
            ));
        }
    }
    objections
}

/// The command that would do it, with the disk that loses least.
fn hint(survivors: &[Survey], uncommitted: Uncommitted) -> String {
    let best = survivors
        .iter()
        .rev()
        .filter(|survivor| !survivor.removed.contains(&survivor.member))
        .max_by_key(|survivor| (survivor.last_term(), survivor.last_index()));
    let Some(best) = best else {
        return "Nothing was changed. No disk that is shown can be gone on with.\n".to_owned();
    };
    let mut text = String::from("Nothing was changed.");
    for objection in objections(best, survivors) {
        let _ = write!(text, " But {objection}.");
    }
    let dirs: Vec<String> = survivors
        .iter()
        .map(|survivor| format!("--data-dir {}", survivor.paths.data_dir.display()))
        .collect();
    let wal = survivors
        .iter()
        .find_map(|survivor| survivor.paths.wal_dir.as_ref());
    let wal = wal.map_or_else(String::new, |dir| format!(" --wal-dir {}", dir.display()));
    let drop = match uncommitted {
        Uncommitted::Keep => "",
        Uncommitted::Drop => " --drop-uncommitted",
    };
    let _ = writeln!(
        text,
        " If the quorum is lost for good, the least is lost by:\n  quorate util recover {}{wal}{drop} --member-id {} --cluster-id {:x}",
        dirs.join(" "),
        best.member,
        best.cluster
    );
    text
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Bytes for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use backend::Backend;
    use membership::{Change, Membership, bootstrap_entries};
    use raftpb::conf::decode_conf_change;
    use raftpb::{Entry, HardState};
    use seams::MemDisk;
    use wal::Metadata;

    use super::*;

    const ROOM: u64 = 1 << 40;

    fn seed() -> Membership {
        let urls = |name: &str| (name.to_owned(), vec![format!("http://{name}:2380")]);
        let by_name = ["a", "b", "c"].map(urls).into();
        Membership::seed(&by_name, "test", 1).expect("three members")
    }

    fn id(name: &str) -> MemberId {
        seed().member_by_name(name).expect("a, b or c").id
    }

    /// The disk of a member whose log has so many entries in term 1, up to `committed` known to be.
    fn disk_of(disk: &Arc<dyn Disk>, name: &str, entries: u64, committed: u64) -> Paths {
        let paths = Paths {
            data_dir: format!("/{name}").into(),
            wal_dir: None,
        };
        disk.create_dir_all(&paths.snap()).expect("a folder");
        let (local, cluster) = (id(name), seed().cluster_id());
        let metadata = Metadata {
            node_id: local.0,
            cluster_id: cluster,
        };
        let mut wal = Wal::create(disk.clone(), &paths.wal(), metadata).expect("a log");
        let mut log = bootstrap_entries(&seed());
        log.extend((4..=entries).map(|index| Entry {
            term: 1,
            index,
            ..Entry::default()
        }));
        let state = HardState {
            term: 1,
            vote: 0,
            commit: committed,
        };
        wal.save(Some(&state), &log).expect("saved");
        wal.close().expect("closed");

        let options = backend::Options::default();
        let (backend, mut writer, mut committer) =
            Backend::open(disk.clone(), &paths.database(), options).expect("a database");
        let mut membership =
            Membership::load(&backend.view(), cluster, local, 1).expect("an empty one");
        for entry in &log[..3] {
            let change = decode_conf_change(entry).expect("a conf change");
            membership.apply(&Change::decode(&change).expect("an addition"), &mut writer);
            writer.end_entry(entry.index, entry.term);
        }
        committer.commit().expect("committed");
        paths
    }

    fn order(paths: &[&Paths], member: MemberId) -> Order {
        Order {
            paths: paths.iter().map(|paths| (*paths).clone()).collect(),
            told: Some((member, seed().cluster_id())),
            copy_to: None,
            uncommitted: Uncommitted::Keep,
            accept_loss: false,
        }
    }

    fn run(disk: &Arc<dyn Disk>, order: &Order, free: u64) -> Result<String> {
        let mut said = String::new();
        recover(disk, order, 7, &|_| Ok(free), &mut |text| {
            said.push_str(text)
        })
        .map(|()| said)
    }

    fn refusal(disk: &Arc<dyn Disk>, order: &Order, free: u64) -> String {
        format!("{:#}", run(disk, order, free).expect_err("a refusal"))
    }

    fn memory() -> Arc<dyn Disk> {
        Arc::new(MemDisk::new())
    }

    #[test]
    fn the_end_of_the_log_is_kept_unless_it_shall_be_dropped() {
        for (uncommitted, last, words) in [
            (
                Uncommitted::Keep,
                9,
                "its last 2 entries that it does not know to be committed would be kept",
            ),
            (
                Uncommitted::Drop,
                7,
                "would be dropped, and may have been acknowledged",
            ),
        ] {
            let disk = memory();
            let paths = disk_of(&disk, "a", 9, 7);
            let mut order = order(&[&paths], id("a"));
            order.uncommitted = uncommitted;
            let said = run(&disk, &order, ROOM).expect("it is told right");
            assert!(said.contains(words), "{said}");
            let after = survey(&disk, &paths).expect("a disk");
            // Two removals behind it, all committed.
            assert_eq!(
                (after.last_index(), after.committed()),
                (last + 2, last + 2)
            );
            assert_eq!(after.members.len(), 1);
            assert_eq!(after.members[0].id, id("a"));
            let copy = Paths {
                data_dir: "/a.before-recover-7".into(),
                wal_dir: None,
            };
            assert_eq!(survey(&disk, &copy).expect("the copy").last_index(), 9);
            let again = run(&disk, &order, ROOM).expect("it is told right");
            assert!(
                again.contains("is alone in cluster") && again.contains("Nothing to do"),
                "{again}"
            );
        }
    }

    #[test]
    fn without_room_for_a_copy_the_disk_stays_as_it_is() {
        let disk = memory();
        let paths = disk_of(&disk, "a", 9, 9);
        let words = refusal(&disk, &order(&[&paths], id("a")), 100);
        assert!(
            words.contains("nothing was changed: no room for the copy"),
            "{words}"
        );
        assert_eq!(survey(&disk, &paths).expect("a disk").last_index(), 9);
    }

    #[test]
    fn the_wrong_ids_are_answered_with_the_right_ones() {
        let disk = memory();
        let paths = disk_of(&disk, "a", 9, 9);
        let mut wrong = order(&[&paths], id("b"));
        let there = format!(
            "what is there: member {} of cluster {:x}",
            id("a"),
            seed().cluster_id()
        );
        assert!(refusal(&disk, &wrong, ROOM).contains(&there));
        wrong.told = Some((id("a"), 1));
        assert!(refusal(&disk, &wrong, ROOM).contains(&there));
    }

    #[test]
    fn the_disk_of_a_removed_member_is_refused_and_not_proposed() {
        let disk = memory();
        let paths = disk_of(&disk, "a", 9, 9);
        let options = backend::Options::default();
        let (backend, mut writer, mut committer) =
            Backend::open(disk.clone(), &paths.database(), options).expect("a database");
        let cluster = seed().cluster_id();
        let mut membership =
            Membership::load(&backend.view(), cluster, id("a"), 1).expect("three members");
        let removal = raftpb::conf::Change::Remove(id("a")).to_conf_change(0);
        membership.apply(&Change::decode(&removal).expect("a removal"), &mut writer);
        writer.end_entry(9, 1);
        committer.commit().expect("committed");
        drop((backend, writer, committer));

        let mut order = order(&[&paths], id("a"));
        order.accept_loss = true;
        let words = refusal(&disk, &order, ROOM);
        let removed = format!("member {} was removed from cluster {cluster:x}", id("a"));
        assert!(words.contains(&removed), "{words}");
        assert!(words.contains("Nothing was changed"), "{words}");
        assert_eq!(survey(&disk, &paths).expect("a disk").last_index(), 9);

        order.told = None;
        let shown = run(&disk, &order, ROOM).expect("it is only shown");
        assert!(
            shown.contains("No disk that is shown can be gone on with"),
            "{shown}"
        );
    }

    #[test]
    fn a_disk_in_use_is_refused() {
        let disk = memory();
        let paths = disk_of(&disk, "a", 9, 9);
        let options = backend::Options::default();
        let running = Backend::open(disk.clone(), &paths.database(), options).expect("a database");
        let words = refusal(&disk, &order(&[&paths], id("a")), ROOM);
        assert!(words.contains("a process holds /a"), "{words}");
        drop(running);
        run(&disk, &order(&[&paths], id("a")), ROOM).expect("nobody holds it");
    }

    #[test]
    fn nothing_is_lost_that_need_not_be() {
        let disk = memory();
        let (short, long) = (disk_of(&disk, "a", 6, 6), disk_of(&disk, "b", 9, 6));
        let mut order = order(&[&short, &long], id("a"));
        let words = refusal(&disk, &order, ROOM);
        assert!(words.contains("2 of 3 voters' disks are here"), "{words}");
        let more = format!(
            "member {} has 3 entries more than member {}",
            id("b"),
            id("a")
        );
        assert!(words.contains(&more), "{words}");
        order.told = None;
        let shown = run(&disk, &order, ROOM).expect("it is only shown");
        assert!(
            shown.contains(&format!("--member-id {}", id("b"))),
            "{shown}"
        );
        order.told = Some((id("a"), seed().cluster_id()));
        order.accept_loss = true;
        run(&disk, &order, ROOM).expect("it is accepted");
    }
}
