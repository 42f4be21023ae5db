//! The membership's buckets in the database, in etcd's form.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `members` | ID in hexadecimal | member JSON |
//! | `members_removed` | ID in hexadecimal | `removed` |
//! | `cluster` | `clusterVersion` | `3.7.0` |
//! | `cluster` | `downgrade` | `{"target-version":"","enabled":false}` |
//! | `meta` | `confState` | raft's ConfState as JSON |
//! | `meta` | `storageVersion` | `3.7.0`, since etcd 3.6 |

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use backend::{Bucket, View, Writer};
use bytes::Bytes;
use raftpb::ConfState;

use crate::{DowngradeInfo, Error, Member, MemberId, Version, json};

const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const DOWNGRADE: &[u8] = b"downgrade";
const CONF_STATE: &[u8] = b"confState";
const STORAGE_VERSION: &[u8] = b"storageVersion";
const TERM: &[u8] = b"term";
const REMOVED: &[u8] = b"removed";

/// The newest schema this program can write, and with it the newest that it opens.
pub const STORAGE_VERSION_MAX: Version = Version::new(3, 7);
/// Schemas have a version since 3.6; a database without one is of 3.5.
const STORAGE_VERSION_FIRST: Version = Version::new(3, 6);
const STORAGE_VERSION_NONE: Version = Version::new(3, 5);

pub(crate) type Members = (BTreeMap<MemberId, Member>, BTreeSet<MemberId>);

pub(crate) fn load_members(view: &View) -> Result<Members, Error> {
    let mut members = BTreeMap::new();
    for_each(view, Bucket::Members, |key, value| {
        let id = member_id_of("members", key)?;
        let mut member = json::decode_member(value)?;
        // The key is the ID; the JSON of very old members has none.
        if member.id.0 == 0 {
            member.id = id;
        }
        members.insert(id, member);
        Ok(())
    })?;
    let mut removed = BTreeSet::new();
    for_each(view, Bucket::MembersRemoved, |key, _| {
        removed.insert(member_id_of("members_removed", key)?);
        Ok(())
    })?;
    Ok((members, removed))
}

pub(crate) fn load_conf_state(view: &View) -> Result<Option<ConfState>, Error> {
    get(view, Bucket::Meta, CONF_STATE)?
        .map(|value| json::decode_conf_state(&value))
        .transpose()
}

pub(crate) fn load_cluster_version(view: &View) -> Result<Option<Version>, Error> {
    get(view, Bucket::Cluster, CLUSTER_VERSION)?
        .map(|value| String::from_utf8_lossy(&value).parse())
        .transpose()
}

pub(crate) fn load_downgrade(view: &View) -> Result<Option<DowngradeInfo>, Error> {
    let Some(value) = get(view, Bucket::Cluster, DOWNGRADE)? else {
        return Ok(None);
    };
    let info = json::decode_downgrade(&value)?;
    if info.enabled {
        info.target_version.parse::<Version>()?;
    }
    Ok(Some(info))
}

pub(crate) fn save_member(writer: &mut Writer, member: &Member) {
    let key = member.id.to_string();
    writer.put(Bucket::Members, key.as_bytes(), member.to_json().into());
}

pub(crate) fn remove_member(writer: &mut Writer, id: MemberId) {
    let key = id.to_string();
    writer.delete(Bucket::Members, key.as_bytes());
    writer.put(
        Bucket::MembersRemoved,
        key.as_bytes(),
        Bytes::from_static(REMOVED),
    );
}

pub(crate) fn save_cluster_version(writer: &mut Writer, version: &Version) {
    writer.put(Bucket::Cluster, CLUSTER_VERSION, version.to_string().into());
}

pub(crate) fn save_downgrade(writer: &mut Writer, info: &DowngradeInfo) {
    writer.put(
        Bucket::Cluster,
        DOWNGRADE,
        json::encode_downgrade(info).into(),
    );
}

/// Writes raft's configuration; conf changes do it themselves, a start from a snapshot may
/// have to.
pub fn save_conf_state(writer: &mut Writer, state: &ConfState) {
    writer.put(
        Bucket::Meta,
        CONF_STATE,
        json::encode_conf_state(state).into(),
    );
}

/// Forgets all members, removed ones included: for a forced new cluster and for restored
/// snapshots, whose members are others than those in the database.
///
/// # Errors
/// A failure to read the buckets.
pub fn clear_members(view: &View, writer: &mut Writer) -> Result<(), Error> {
    for bucket in [Bucket::Members, Bucket::MembersRemoved] {
        let mut keys = Vec::new();
        for_each(view, bucket, |key, _| {
            keys.push(key.to_vec());
            Ok(())
        })?;
        for key in keys {
            writer.delete(bucket, &key);
        }
    }
    Ok(())
}

/// The schema version that the database names, if it does. A text that is no version counts
/// as none, as in etcd.
///
/// # Errors
/// A failure to read.
pub fn storage_version(view: &View) -> Result<Option<Version>, Error> {
    Ok(get(view, Bucket::Meta, STORAGE_VERSION)?
        .and_then(|value| String::from_utf8_lossy(&value).parse().ok()))
}

/// The schema version that the database has: the one it names, or 3.5 if it names none but
/// has a term, or nothing if that is missing as well (a file of 3.4, or a new one).
///
/// # Errors
/// A failure to read.
pub fn schema_version(view: &View) -> Result<Option<Version>, Error> {
    if let Some(version) = storage_version(view)? {
        return Ok(Some(version));
    }
    let term = get(view, Bucket::Meta, TERM)?;
    Ok(term
        .filter(|term| term.iter().any(|byte| *byte != 0))
        .map(|_| STORAGE_VERSION_NONE))
}

/// Whether this program can open a database of this schema.
///
/// # Errors
/// [`Error::Migration`]: it is newer, or of another major version.
pub fn check_schema(view: &View) -> Result<(), Error> {
    match schema_version(view)? {
        None => Ok(()),
        Some(current) => check_plan(&current.to_minor(), &STORAGE_VERSION_MAX),
    }
}

/// Brings the schema to `target`, up or down. `wal_needs` is the oldest version that can
/// read the entries in the WAL: the database must not go below it. Gives back the version
/// that was there.
///
/// # Errors
/// [`Error::Migration`] says why not; nothing has changed then.
pub fn migrate(
    view: &View,
    writer: &mut Writer,
    target: &Version,
    wal_needs: Option<&Version>,
) -> Result<Version, Error> {
    let Some(current) = schema_version(view)? else {
        return Err(Error::Migration(
            "cannot detect storage schema version: missing term information".to_owned(),
        ));
    };
    let target = target.to_minor();
    check_plan(&current.to_minor(), &target)?;
    if let Some(needs) = wal_needs
        && target < current
        && target < *needs
    {
        return Err(Error::Migration(format!(
            "cannot downgrade storage, WAL contains newer entries, as the target version ({target}) is lower than the version ({needs}) detected from WAL logs"
        )));
    }
    if target == current.to_minor() {
        return Ok(current);
    }
    // The only difference between the schemas of 3.5, 3.6 and 3.7 is this field.
    if target < STORAGE_VERSION_FIRST {
        writer.delete(Bucket::Meta, STORAGE_VERSION);
    } else {
        writer.put(Bucket::Meta, STORAGE_VERSION, target.to_string().into());
    }
    Ok(current)
}

/// Whether every step between the two schemas is known.
fn check_plan(current: &Version, target: &Version) -> Result<(), Error> {
    if current.major != target.major {
        return Err(Error::Migration(
            "changing major storage version is not supported".to_owned(),
        ));
    }
    for version in [current, target] {
        if *version < STORAGE_VERSION_NONE || *version > STORAGE_VERSION_MAX {
            return Err(Error::Migration(format!(
                "version \"{version}\" is not supported"
            )));
        }
    }
    Ok(())
}

fn get(view: &View, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, Error> {
    view.get(bucket, key)
        .map_err(|error| Error::Backend(error.to_string()))
}

fn for_each(
    view: &View,
    bucket: Bucket,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut result = Ok(());
    view.scan(bucket, &[], None, &mut |key, value| {
        result = each(key, value);
        if result.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })
    .map_err(|error| Error::Backend(error.to_string()))?;
    result
}

fn member_id_of(bucket: &'static str, key: &[u8]) -> Result<MemberId, Error> {
    std::str::from_utf8(key)
        .ok()
        .and_then(MemberId::from_hex)
        .ok_or_else(|| Error::BadMemberKey {
            bucket,
            key: String::from_utf8_lossy(key).into_owned(),
        })
}
