//! Before a member runs: whether it may, by its words and by what the other members say.
//!
//! ```text
//!  no log   words ▶ ask every peer URL at once ▶ decide ▶ Start::New or Start::Join
//!  a log    disk (ids, members) ▶ ask its own and the other peer URLs ▶ decide
//! ```
//!
//! All that can be refused is refused here, and nothing has been written by then (promise 1). Each
//! refusal names the cause, what was seen, and what to do next (promise 12); `docs/membership.md`
//! lists them, and a test of the real program produces each line.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use membership::{Member as MemberInfo, Membership, Version, format_initial_cluster, json};
use rafthttp::{Asks, ClusterId, Limits, Versions};
use raftpb::MemberId;
use tokio::task::JoinSet;

use crate::boot::{Booted, Start};
use crate::config::{ANNOUNCED_CLUSTER_VERSION, Config, MIN_CLUSTER_VERSION};
use crate::peers::timeouts;

/// What a start waits for the answers of those who need not run: the peers of a new cluster, and
/// everybody at a restart.
const PATIENCE: Duration = Duration::from_secs(1);

/// Once one member has told a joiner about its cluster, how long the others may take.
const OTHERS_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks at a cluster that has not decided on its version.
const VERSION_PAUSE: Duration = Duration::from_millis(200);

/// Clocks that differ by more are warned of, as in probes.
const CLOCK_DRIFT_WARN_MS: u64 = 1000;

/// Why a member does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `--name` is none of `--initial-cluster`
    #[error(
        "couldn't find local name {name:?} in the initial cluster configuration ({initial}): add {name}={urls} to --initial-cluster, or correct --name"
    )]
    NotInInitialCluster {
        /// `--name`
        name: String,
        /// `--initial-cluster`
        initial: String,
        /// `--initial-advertise-peer-urls`
        urls: String,
    },
    /// `--initial-cluster` has more, or other, URLs for this member than it advertises
    #[error(
        "--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised}: make both the same; if these URLs belong to two members, give each its own --name"
    )]
    NotAdvertised {
        /// name and URL
        missing: String,
        /// `--initial-advertise-peer-urls`
        advertised: String,
    },
    /// this member advertises more than `--initial-cluster` has for it
    #[error(
        "--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={initial}: make both the same"
    )]
    NotListed {
        /// the URL
        missing: String,
        /// `--initial-cluster`
        initial: String,
    },
    /// a name without an address
    #[error(
        "failed to resolve {url}: {reason}: check the name (`getent hosts {host}`), or give an address"
    )]
    Unresolvable {
        /// the URL
        url: String,
        /// its host
        host: String,
        /// what the resolver says
        reason: String,
    },
    /// two members of `--initial-cluster` with one URL
    #[error(
        "--initial-cluster has the peer URL {url} twice (for {one} and for {other}): each member needs its own"
    )]
    UrlTwice {
        /// the URL
        url: String,
        /// first name
        one: String,
        /// second name
        other: String,
    },
    /// a log that was lost, or an emptied disk
    #[error(
        "member {id} ({name}) has already been bootstrapped: {url} lists it as started, but this data directory is empty. It must not vote twice: restore its directory, or replace it: `etcdctl{endpoints} member remove {id}`, `etcdctl{endpoints} member add {name} --peer-urls={urls}`, then start it with --initial-cluster-state=existing"
    )]
    Bootstrapped {
        /// this member
        id: MemberId,
        /// `--name`
        name: String,
        /// who says so
        url: String,
        /// etcdctl's flag
        endpoints: String,
        /// its peer URLs
        urls: String,
    },
    /// a member of the first hour that is none any more
    #[error(
        "member {id} ({name}) was removed from cluster {cluster}: {url} does not list it any more, and its ID can never come back. Add it as a new member: `etcdctl{endpoints} member add {name} --peer-urls={urls}`, then start it with --initial-cluster-state=existing"
    )]
    Removed {
        /// this member
        id: MemberId,
        /// `--name`
        name: String,
        /// the running cluster
        cluster: ClusterId,
        /// who says so
        url: String,
        /// etcdctl's flag
        endpoints: String,
        /// its peer URLs
        urls: String,
    },
    /// the same peers run as another cluster
    #[error(
        "cluster ID mismatch: {url} belongs to cluster {theirs}, whose members have the peer URLs of --initial-cluster, but with --initial-cluster-token={token} they make cluster {ours}: give the token that the others were started with; if they were added one by one, start this one with --initial-cluster-state=existing"
    )]
    OtherToken {
        /// who answered
        url: String,
        /// its cluster
        theirs: ClusterId,
        /// ours
        ours: ClusterId,
        /// `--initial-cluster-token`
        token: String,
    },
    /// a cluster runs, and this is not it
    #[error(
        "{url} runs in cluster {theirs} already, with the members {members}; --initial-cluster-state=new would make another one, {ours}. To join it: `{add}`, then start with --initial-cluster-state=existing and its members in --initial-cluster"
    )]
    RunsAlready {
        /// who answered
        url: String,
        /// its cluster
        theirs: ClusterId,
        /// its members
        members: String,
        /// ours
        ours: ClusterId,
        /// etcdctl's call
        add: String,
    },
    /// another member has this name
    #[error(
        "the name {name} is taken by member {id} at {theirs}, as {url} says: give this member another --name, also in --initial-cluster"
    )]
    NameTaken {
        /// `--name`
        name: String,
        /// whose it is
        id: MemberId,
        /// its peer URLs
        theirs: String,
        /// who says so
        url: String,
    },
    /// somebody serves the URL that this member advertises
    #[error(
        "{url} is this member's peer URL, but another process serves it, of cluster {cluster}: two members cannot have one URL. Stop that process, or give this member another --initial-advertise-peer-urls"
    )]
    UrlTaken {
        /// the URL
        url: String,
        /// who is there
        cluster: ClusterId,
    },
    /// nobody to ask
    #[error(
        "cannot join: --initial-cluster={initial} names no other member: list the running members beside this one (`etcdctl member list`), or start a new cluster with --initial-cluster-state=new"
    )]
    NobodyElse {
        /// `--initial-cluster`
        initial: String,
    },
    /// nobody answered
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs. {}: start one of them, or correct their URLs in --initial-cluster", failures.join("; ")
    )]
    NobodyAnswers {
        /// each with its own reason
        failures: Vec<String>,
    },
    /// the peers are not of one cluster
    #[error(
        "the peers in --initial-cluster belong to two clusters: {one} to {cluster}, {other} to {other_cluster}: leave out those that this member shall not join"
    )]
    TwoClusters {
        /// who answered
        one: String,
        /// its cluster
        cluster: ClusterId,
        /// who answered otherwise
        other: String,
        /// its cluster
        other_cluster: ClusterId,
    },
    /// nobody added this member
    #[error(
        "error validating peerURLs: cluster {cluster} has no member with the peer URLs {urls}; it has {members}. Add this one first: `etcdctl{endpoints} member add {name} --peer-urls={urls}`"
    )]
    NotAdded {
        /// the running cluster
        cluster: ClusterId,
        /// ours
        urls: String,
        /// its members
        members: String,
        /// etcdctl's flag
        endpoints: String,
        /// `--name`
        name: String,
    },
    /// `--initial-cluster` has too many or too few
    #[error(
        "error validating peerURLs: member count is unequal: {given} in --initial-cluster, {running} in the running cluster {cluster}: start this member with --initial-cluster={right}"
    )]
    CountUnequal {
        /// in the flag
        given: usize,
        /// in the cluster
        running: usize,
        /// the running cluster
        cluster: ClusterId,
        /// what the flag should be
        right: String,
    },
    /// `--initial-cluster` has another URL for one of them
    #[error(
        "error validating peerURLs: unmatched member while checking PeerURLs: no match found for existing member {id} ({urls}){reason}: start this member with --initial-cluster={right}"
    )]
    NoMatch {
        /// the member
        id: MemberId,
        /// its URLs
        urls: String,
        /// the last resolver error
        reason: String,
        /// what the flag should be
        right: String,
    },
    /// `--max-learners`
    #[error(
        "membership: too many learner members in cluster: it has {learners}, and --max-learners={max} here: start this member with --max-learners={learners}, as the others"
    )]
    TooManyLearners {
        /// in the cluster
        learners: usize,
        /// the flag
        max: usize,
    },
    /// a cluster of a version that this program does not serve
    #[error(
        "incompatible with current running cluster: {url} says that its version is {version}, this program serves {lowest} to {highest}: use a program of the cluster's version"
    )]
    Incompatible {
        /// who answered
        url: String,
        /// the cluster's version
        version: String,
        /// of this program
        lowest: String,
        /// of this program
        highest: String,
    },
    /// a cluster of which no version is known
    #[error(
        "incompatible with current running cluster: no member says its cluster version ({}): wait until the cluster has a leader, and start this member again", said.join("; ")
    )]
    NoVersion {
        /// each with what it said
        said: Vec<String>,
    },
    /// the directory of somebody who runs
    #[error(
        "member {id} runs already, at {url}: this data directory is a copy of its own. A member that runs twice votes twice. Stop that process if this directory is to take its place; for one more member, `etcdctl member add` it and start it with an empty directory"
    )]
    RunsElsewhere {
        /// whose directory it is
        id: MemberId,
        /// where it runs
        url: String,
    },
    /// the directory of another cluster
    #[error(
        "cluster ID mismatch: the data in {dir} belong to cluster {disk}, but {url} in --initial-cluster belongs to cluster {theirs}: give this member its own --data-dir, or correct --initial-cluster; to join that cluster, `etcdctl member add` it and start it with an empty directory"
    )]
    DataOfAnother {
        /// `--data-dir`
        dir: String,
        /// what its log says
        disk: ClusterId,
        /// who answered
        url: String,
        /// its cluster
        theirs: ClusterId,
    },
    /// members that compute to one ID
    #[error(transparent)]
    Membership(#[from] membership::Error),
}

/// What one peer URL said of its cluster.
struct Heard {
    name: String,
    url: String,
    said: Result<(ClusterId, Vec<MemberInfo>), String>,
}

/// What a member that has no log yet is to become.
///
/// # Errors
/// It is to become nothing; the disk was not touched.
pub async fn plan_first_start(config: &Config) -> Result<Start, Error> {
    let by_name = config.peer_urls_by_name();
    let membership = seed(config, &by_name)?;
    let asks = Asks::new(&timeouts(config), &Limits::default());
    let others = urls_of(&by_name, |name| name != config.name);
    let own = urls_of(&by_name, |name| name == config.name);
    if config.new_cluster {
        let asks = asks.within(PATIENCE);
        let (heard, own) = tokio::join!(
            ask_members(&asks, &others, PATIENCE),
            ask_members(&asks, &own, PATIENCE)
        );
        refuse_taken_url(&own)?;
        decide_new(config, membership, &heard)
    } else {
        if others.is_empty() {
            return Err(Error::NobodyElse {
                initial: format_initial_cluster(&by_name),
            });
        }
        let patience = config.request_timeout();
        let (heard, own) = tokio::join!(
            ask_members(&asks, &others, patience),
            ask_members(&asks, &own, PATIENCE)
        );
        refuse_taken_url(&own)?;
        let membership = decide_join(config, membership, &heard)?;
        warn_of_clocks(&asks, &heard).await;
        check_versions(&asks, &others, patience).await?;
        Ok(Start::Join(membership))
    }
}

/// Whether the member of a log may run: its data are the cluster's, and it does not run elsewhere.
///
/// # Errors
/// It must not.
pub async fn check_restart(config: &Config, booted: &Booted) -> Result<(), Error> {
    if config.force_new_cluster {
        return Ok(());
    }
    let (id, cluster) = (booted.id, ClusterId(booted.cluster_id));
    let members = booted.applier.cluster().get();
    let asks = Asks::new(&timeouts(config), &Limits::default()).within(PATIENCE);
    // Our own listeners close every connection by now, so whoever answers is not this process.
    let listed = members.member(id).map(|member| member.peer_urls.clone());
    let mut own = listed.unwrap_or_default();
    own.extend(config.advertise_peer_urls.iter().cloned());
    own.sort();
    own.dedup();
    let mut running = JoinSet::new();
    for url in own.clone() {
        let asks = asks.clone();
        running.spawn(async move {
            let is_us = asks.is_member(&url, cluster, id).await;
            (url, matches!(is_us, Ok(true)))
        });
    }
    let listed = members.members().filter(|member| member.id != id);
    let listed = listed.flat_map(|member| &member.peer_urls);
    let listed: Vec<(String, String)> = listed
        .map(|url| ("in its data".to_owned(), url.clone()))
        .collect();
    let given = urls_of(&config.peer_urls_by_name(), |name| name != config.name);
    let (listed, given) = tokio::join!(
        ask_members(&asks, &listed, PATIENCE),
        ask_members(&asks, &given, PATIENCE)
    );
    while let Some(asked) = running.join_next().await {
        if let Ok((url, true)) = asked {
            return Err(Error::RunsElsewhere { id, url });
        }
    }
    let by_others = listed.iter().chain(&given).filter_map(|heard| {
        let (theirs, members) = heard.said.as_ref().ok()?;
        (*theirs == cluster).then_some((heard.url.as_str(), members.as_slice()))
    });
    let by_others: Vec<_> = by_others.collect();
    for (url, members) in &by_others {
        refuse_new_name(config, id, url, members)?;
    }
    if !by_others.is_empty() {
        return Ok(());
    }
    let own: Vec<MemberInfo> = members.members().cloned().collect();
    refuse_new_name(config, id, &config.data_dir.display().to_string(), &own)?;
    let answered = |heard: &'_ Heard| Some((heard.url.clone(), heard.said.as_ref().ok()?.0));
    match given.iter().find_map(answered) {
        Some((url, theirs)) => Err(Error::DataOfAnother {
            dir: config.data_dir.display().to_string(),
            disk: cluster,
            url,
            theirs,
        }),
        None => Ok(()),
    }
}

/// What `--initial-cluster` says by itself.
fn seed(config: &Config, by_name: &BTreeMap<String, Vec<String>>) -> Result<Membership, Error> {
    let mut owners: BTreeMap<&String, &String> = BTreeMap::new();
    for (name, url) in &config.initial_cluster {
        if let Some(one) = owners.insert(url, name) {
            return Err(Error::UrlTwice {
                url: url.clone(),
                one: one.clone(),
                other: name.clone(),
            });
        }
    }
    let mut advertised = config.advertise_peer_urls.clone();
    advertised.sort();
    let Some(ours) = by_name.get(&config.name) else {
        return Err(Error::NotInInitialCluster {
            name: config.name.clone(),
            initial: format_initial_cluster(by_name),
            urls: advertised.join(","),
        });
    };
    // As in etcd, a joiner's words are not compared: the cluster has its URLs already.
    if config.new_cluster && !same_urls(ours, &advertised)? {
        let named = |url: &String| format!("{}={url}", config.name);
        let missing: Vec<String> = ours
            .iter()
            .filter(|url| !advertised.contains(url))
            .map(named)
            .collect();
        if !missing.is_empty() {
            return Err(Error::NotAdvertised {
                missing: missing.join(","),
                advertised: advertised.join(","),
            });
        }
        let missing = advertised.iter().filter(|url| !ours.contains(url));
        return Err(Error::NotListed {
            missing: missing.cloned().collect::<Vec<_>>().join(","),
            initial: format_initial_cluster(by_name),
        });
    }
    let token = &config.initial_cluster_token;
    Ok(Membership::seed(by_name, token, config.max_learners)?)
}

fn decide_new(
    config: &Config,
    mut membership: Membership,
    heard: &[Heard],
) -> Result<Start, Error> {
    let (id, ours) = own(config, &membership);
    let cluster = ClusterId(membership.cluster_id());
    for Heard { url, said, .. } in heard {
        let Ok((theirs, members)) = said else {
            continue;
        };
        let same_id = members.iter().find(|member| member.id == id);
        let same_url = || members.iter().find(|member| member.peer_urls == ours);
        // Names are no sign of life here: the first members have them from the flags.
        if let Some(member) = same_id.or_else(same_url)
            && !member.client_urls.is_empty()
        {
            return Err(bootstrapped(config, member.id, url, members, &ours));
        }
        let (name, endpoints) = (config.name.clone(), endpoints(members));
        let urls = ours.join(",");
        if *theirs == cluster {
            refuse_taken_name(config, id, url, members)?;
            if same_id.is_none() {
                return Err(Error::Removed {
                    id,
                    name,
                    cluster,
                    url: url.clone(),
                    endpoints,
                    urls,
                });
            }
        } else if Membership::of_remote(theirs.0, members.clone()).peer_urls()
            == membership.peer_urls()
        {
            return Err(Error::OtherToken {
                url: url.clone(),
                theirs: *theirs,
                ours: cluster,
                token: config.initial_cluster_token.clone(),
            });
        } else {
            return Err(Error::RunsAlready {
                url: url.clone(),
                theirs: *theirs,
                members: list(members),
                ours: cluster,
                add: format!("etcdctl{endpoints} member add {name} --peer-urls={urls}"),
            });
        }
    }
    membership.set_ids(id, cluster.0);
    Ok(Start::New(membership))
}

fn decide_join(
    config: &Config,
    membership: Membership,
    heard: &[Heard],
) -> Result<Membership, Error> {
    let (_, ours) = own(config, &membership);
    let mut answers = Vec::new();
    let mut failures = Vec::new();
    for Heard { name, url, said } in heard {
        match said {
            Ok((cluster, members)) => answers.push((url, *cluster, members)),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    let Some(&(one, cluster, _)) = answers.first() else {
        return Err(Error::NobodyAnswers { failures });
    };
    for failure in failures {
        tracing::warn!(failure, "a peer did not say who belongs to the cluster");
    }
    if let Some(&(other, other_cluster, _)) = answers.iter().find(|answer| answer.1 != cluster) {
        return Err(Error::TwoClusters {
            one: one.clone(),
            cluster,
            other: other.clone(),
            other_cluster,
        });
    }
    // A member that lags may not know this one yet: one answer that fits is enough. One that says
    // that this member has run is enough, too.
    let mut first_refusal = None;
    let mut joined = None;
    for &(url, _, members) in &answers {
        match adopt(config, &membership, url, cluster, members, &ours) {
            Err(refusal @ Error::Bootstrapped { .. }) => return Err(refusal),
            Err(refusal) => {
                first_refusal.get_or_insert(refusal);
            }
            Ok(membership) => joined = Some(membership),
        }
    }
    joined.ok_or_else(|| first_refusal.expect("there was an answer, and it did not fit"))
}

/// The joiner's membership by one member's answer.
fn adopt(
    config: &Config,
    membership: &Membership,
    url: &str,
    cluster: ClusterId,
    members: &[MemberInfo],
    ours: &[String],
) -> Result<Membership, Error> {
    let running = Membership::of_remote(cluster.0, members.to_vec());
    let is_ours = |member: &MemberInfo| same_urls(&member.peer_urls, ours).unwrap_or(false);
    let Some(listed) = members.iter().find(|member| is_ours(member)) else {
        return Err(Error::NotAdded {
            cluster,
            urls: ours.join(","),
            members: list(members),
            endpoints: endpoints(members),
            name: config.name.clone(),
        });
    };
    if membership::is_started(listed) {
        return Err(bootstrapped(config, listed.id, url, members, ours));
    }
    refuse_taken_name(config, listed.id, url, members)?;
    let mut membership = membership.clone();
    let mut same = |a: &[String], b: &[String]| same_urls(a, b).map_err(|error| error.to_string());
    let right = || right_initial_cluster(config, listed.id, members);
    match membership::adopt_ids(&mut membership, &running, &mut same) {
        Ok(()) => {}
        Err(membership::Error::CountUnequal { local, remote }) => {
            return Err(Error::CountUnequal {
                given: local,
                running: remote,
                cluster,
                right: right(),
            });
        }
        Err(membership::Error::NoMatch { id, urls, reason }) => {
            let reason = match reason.as_str() {
                "<nil>" => String::new(),
                reason => format!(", {reason}"),
            };
            return Err(Error::NoMatch {
                id,
                urls: urls.join(","),
                reason,
                right: right(),
            });
        }
        Err(error) => return Err(error.into()),
    }
    let learners = members.iter().filter(|member| member.is_learner).count();
    if learners > config.max_learners {
        return Err(Error::TooManyLearners {
            learners,
            max: config.max_learners,
        });
    }
    membership.set_ids(listed.id, cluster.0);
    Ok(membership)
}

/// etcd's question before a join: every version that is said must be one that this program serves,
/// and one must be said. A cluster that has just begun is given time to decide.
async fn check_versions(
    asks: &Asks,
    others: &[(String, String)],
    patience: Duration,
) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let mut asked = JoinSet::new();
        for (_, url) in others.iter().cloned() {
            let asks = asks.clone();
            asked.spawn(async move {
                let urls = [url];
                let versions = asks.version(&urls).await;
                let downgrade = asks.downgrade_enabled(&urls).await.unwrap_or(false);
                let [url] = urls;
                (url, versions, downgrade)
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by(|a, b| a.0.cmp(&b.0));
        let downgrade = answers.iter().any(|(_, _, enabled)| *enabled);
        let mut known = false;
        let mut said = Vec::new();
        for (url, versions, _) in &answers {
            match versions {
                Ok(Versions { cluster, .. }) => match cluster.parse::<Version>() {
                    Ok(version) => {
                        known = true;
                        serves(url, &version, downgrade)?;
                    }
                    Err(_) => said.push(format!("{url}: {cluster}")),
                },
                Err(error) => said.push(format!("{url}: {error}")),
            }
        }
        if known {
            return Ok(());
        }
        if tokio::time::Instant::now() + VERSION_PAUSE > deadline {
            return Err(Error::NoVersion { said });
        }
        tokio::time::sleep(VERSION_PAUSE).await;
    }
}

/// etcd's `allowedVersionRange`: while a downgrade is under way, exactly one minor more than ours.
fn serves(url: &str, version: &Version, downgrade: bool) -> Result<(), Error> {
    let ours = ANNOUNCED_CLUSTER_VERSION.parse::<Version>()?;
    let (lowest, highest) = if downgrade {
        let next = Version::new(ours.major, ours.minor + 1);
        (next.clone(), next)
    } else {
        (MIN_CLUSTER_VERSION.parse::<Version>()?, ours)
    };
    if *version < lowest || *version > highest {
        return Err(Error::Incompatible {
            url: url.to_owned(),
            version: version.to_string(),
            lowest: lowest.to_string(),
            highest: highest.to_string(),
        });
    }
    Ok(())
}

/// A wrong clock stops nothing here, as in etcd, but leases and certificates suffer.
async fn warn_of_clocks(asks: &Asks, heard: &[Heard]) {
    let asks = asks.within(PATIENCE);
    for heard in heard.iter().filter(|heard| heard.said.is_ok()) {
        if let Ok(drift_ms) = asks.clock_drift_ms(&heard.url).await
            && drift_ms.unsigned_abs() > CLOCK_DRIFT_WARN_MS
        {
            tracing::warn!(
                "the clock of {} ({}) is {drift_ms} ms ahead of this one: set the clocks of both hosts (`timedatectl`)",
                heard.url,
                heard.name
            );
        }
    }
}

/// `GET /members` of every URL at once, in the order given. Once one has answered, the others have
/// [`OTHERS_WITHIN`]; nobody has longer than `patience`.
async fn ask_members(asks: &Asks, urls: &[(String, String)], patience: Duration) -> Vec<Heard> {
    let mut asked = JoinSet::new();
    for (at, (_, url)) in urls.iter().enumerate() {
        let (asks, url) = (asks.within(patience), url.clone());
        asked.spawn(async move {
            let said = match asks.members(&url).await {
                Err(error) => Err(error.to_string()),
                Ok((body, cluster)) => match json::decode_member_list(&body) {
                    Err(error) => Err(format!(
                        "{url} gave a list of members that cannot be read: {error}; check that it is a peer URL"
                    )),
                    Ok(members) if members.is_empty() => {
                        Err(format!("{url} knows no members yet: it starts"))
                    }
                    Ok(members) => Ok((cluster, members)),
                },
            };
            (at, said)
        });
    }
    let mut said = BTreeMap::new();
    let mut deadline = tokio::time::Instant::now() + patience + OTHERS_WITHIN;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, asked.join_next()).await {
        let Ok((at, answer)) = answer else { continue };
        if answer.is_ok() {
            deadline = deadline.min(tokio::time::Instant::now() + OTHERS_WITHIN);
        }
        said.insert(at, answer);
    }
    let late = || Err("no answer in time".to_owned());
    let heard = urls.iter().enumerate().map(|(at, (name, url))| Heard {
        name: name.clone(),
        url: url.clone(),
        said: said.remove(&at).unwrap_or_else(late),
    });
    heard.collect()
}

/// Our own listeners close every connection until the member serves.
fn refuse_taken_url(own: &[Heard]) -> Result<(), Error> {
    let answered = own
        .iter()
        .find_map(|heard| Some((heard.url.clone(), heard.said.as_ref().ok()?.0)));
    match answered {
        Some((url, cluster)) => Err(Error::UrlTaken { url, cluster }),
        None => Ok(()),
    }
}

fn refuse_taken_name(
    config: &Config,
    id: MemberId,
    url: &str,
    members: &[MemberInfo],
) -> Result<(), Error> {
    let namesake = |member: &&MemberInfo| member.name == config.name && member.id != id;
    match members.iter().find(namesake) {
        Some(member) => Err(Error::NameTaken {
            name: config.name.clone(),
            id: member.id,
            theirs: member.peer_urls.join(","),
            url: url.to_owned(),
        }),
        None => Ok(()),
    }
}

/// A member may not take the name of another. Where two have had one name from before, as etcd lets
/// them, that must not keep one of them from coming back.
fn refuse_new_name(
    config: &Config,
    id: MemberId,
    who_says: &str,
    members: &[MemberInfo],
) -> Result<(), Error> {
    let had_it = |member: &MemberInfo| member.id == id && member.name == config.name;
    match refuse_taken_name(config, id, who_says, members) {
        Err(taken) if members.iter().any(had_it) => {
            tracing::warn!("two members have one name: {taken}");
            Ok(())
        }
        answer => answer,
    }
}

fn bootstrapped(
    config: &Config,
    id: MemberId,
    url: &str,
    members: &[MemberInfo],
    ours: &[String],
) -> Error {
    let others: Vec<MemberInfo> = members.iter().filter(|m| m.id != id).cloned().collect();
    Error::Bootstrapped {
        id,
        name: config.name.clone(),
        url: url.to_owned(),
        endpoints: endpoints(&others),
        urls: ours.join(","),
    }
}

fn own(config: &Config, membership: &Membership) -> (MemberId, Vec<String>) {
    let member = membership
        .member_by_name(&config.name)
        .expect("the seed has this member");
    (member.id, member.peer_urls.clone())
}

fn urls_of(
    by_name: &BTreeMap<String, Vec<String>>,
    which: impl Fn(&str) -> bool,
) -> Vec<(String, String)> {
    let chosen = by_name.iter().filter(|(name, _)| which(name));
    chosen
        .flat_map(|(name, urls)| urls.iter().map(|url| (name.clone(), url.clone())))
        .collect()
}

/// `ID (name) URLs`, for people.
fn list(members: &[MemberInfo]) -> String {
    let one = |member: &MemberInfo| {
        let name = match member.name.as_str() {
            "" => "not started",
            name => name,
        };
        format!("{} ({name}) {}", member.id, member.peer_urls.join(","))
    };
    members.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// ` --endpoints=…` of those who serve clients, or nothing.
fn endpoints(members: &[MemberInfo]) -> String {
    let urls: Vec<&str> = members
        .iter()
        .filter_map(|member| member.client_urls.first().map(String::as_str))
        .collect();
    if urls.is_empty() {
        String::new()
    } else {
        format!(" --endpoints={}", urls.join(","))
    }
}

/// The `--initial-cluster` with which this member can join.
fn right_initial_cluster(config: &Config, own: MemberId, members: &[MemberInfo]) -> String {
    let mut by_name = BTreeMap::new();
    for member in members {
        let name = match member.name.as_str() {
            _ if member.id == own => config.name.clone(),
            // Any name will do for one that has none yet.
            "" => member.id.to_string(),
            name => name.to_owned(),
        };
        by_name.insert(name, member.peer_urls.clone());
    }
    format_initial_cluster(&by_name)
}

/// Whether two lists of URLs mean the same addresses. Names are resolved where texts differ.
fn same_urls(a: &[String], b: &[String]) -> Result<bool, Error> {
    if a.len() != b.len() {
        return Ok(false);
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    a.sort();
    b.sort();
    if a == b {
        return Ok(true);
    }
    let resolve_all = |urls: &[String]| {
        let mut addresses = urls
            .iter()
            .map(|url| resolve(url))
            .collect::<Result<Vec<_>, Error>>()?;
        addresses.sort();
        Ok::<_, Error>(addresses)
    };
    Ok(resolve_all(&a)? == resolve_all(&b)?)
}

fn resolve(url: &str) -> Result<Vec<SocketAddr>, Error> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let mut addresses: Vec<_> = rest
        .to_socket_addrs()
        .map_err(|error| Error::Unresolvable {
            url: url.to_owned(),
            host: rest
                .rsplit_once(':')
                .map_or(rest, |(host, _)| host)
                .to_owned(),
            reason: error.to_string(),
        })?
        .collect();
    addresses.sort();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> MemberInfo {
        MemberInfo {
            id: MemberId(id),
            name: name.to_owned(),
            ..MemberInfo::default()
        }
    }

    /// Both ends of the range, and the one version of a downgrade that is under way.
    #[test]
    fn clusters_of_these_versions_are_served() {
        let ours: Version = ANNOUNCED_CLUSTER_VERSION.parse().expect("our own");
        let minor = |minor| Version::new(ours.major, minor);
        let lowest: Version = MIN_CLUSTER_VERSION.parse().expect("our own");
        let too_old = Version::new(lowest.major - 1, 9);
        for (version, downgrade, served) in [
            (ours.clone(), false, true),
            (lowest.clone(), false, true),
            (minor(ours.minor + 1), false, false),
            (too_old.clone(), false, false),
            // A member that downgrades comes with the older program before the cluster's version falls.
            (minor(ours.minor + 1), true, true),
            (ours.clone(), true, false),
            (minor(ours.minor + 2), true, false),
            (too_old, true, false),
        ] {
            let answer = serves("http://a:2380", &version, downgrade);
            assert_eq!(answer.is_ok(), served, "{version} {downgrade}: {answer:?}");
        }
        let words = serves("http://a:2380", &minor(ours.minor + 1), false)
            .expect_err("too new")
            .to_string();
        let range = format!(
            "http://a:2380 says that its version is {}, this program serves {lowest} to {ours}",
            minor(ours.minor + 1)
        );
        assert!(words.contains(&range), "{words}");
    }

    #[test]
    fn a_member_may_not_take_the_name_of_another_and_may_keep_the_one_it_had() {
        let config = Config {
            name: "a".to_owned(),
            ..Config::default()
        };
        let refused = |members: &[MemberInfo]| {
            let answer = refuse_new_name(&config, MemberId(1), "http://b:2380", members);
            answer.map_err(|error| error.to_string()).err()
        };
        assert_eq!(refused(&[member(1, "a"), member(2, "b")]), None);
        assert_eq!(refused(&[member(1, "c"), member(2, "b")]), None);
        let taken = refused(&[member(1, "c"), member(2, "a")]).expect("it is taken");
        assert!(taken.contains("the name a is taken by member 2"), "{taken}");
        assert_eq!(refused(&[member(1, "a"), member(2, "a")]), None);
    }
}
