//! Normal entries: find out what is asked for, and do it.

use std::time::Duration;

use api::etcdserverpb as pb;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{AlarmType, InternalRaftRequest, RequestV2};
use lease::LeaseId;
use membership::{DowngradeInfo, MemberId, Version};
use prost::Message;
use raftpb::Entry;

use crate::error::{Failure, lease_error};
use crate::legacy::{self, LegacyRequest};
use crate::outcome::header;
use crate::{Applier, Fatal, Outcome, Response, auth, kv, quota, txn};

/// Leases' remaining times are written to the database by all members of clusters from this
/// version on; older members would not understand why the records change.
const PERSISTS_CHECKPOINTS: Version = Version::new(3, 6);

impl Applier {
    /// Applies a normal entry with data.
    pub(crate) fn apply_request(
        &mut self,
        entry: &Entry,
        waits: &dyn Fn(u64) -> bool,
        now: Duration,
        outcome: &mut Outcome,
    ) -> Result<(), Fatal> {
        let request = match InternalRaftRequest::decode(entry.data.clone()) {
            Ok(request) => request,
            // Before 2.3 an entry was a bare v2 request.
            Err(error) => match RequestV2::decode(entry.data.clone()) {
                Ok(request) => return self.apply_legacy(&request, outcome),
                Err(_) => {
                    outcome.ignored = Some(format!(
                        "{} bytes that are no request: {error}",
                        entry.data.len()
                    ));
                    return Ok(());
                }
            },
        };
        let header_id = request.header.as_ref().map_or(0, |header| header.id);
        outcome.request_id = if request.id == 0 {
            header_id
        } else {
            request.id
        };
        let waited_for = outcome.request_id != 0 && waits(outcome.request_id);

        if self.apply_cluster_request(&request, outcome)? {
            return Ok(());
        }
        if let Some(what) = auth::change(&request) {
            return Err(Fatal::Unsupported {
                index: entry.index,
                what,
            });
        }
        if let Some(what) = auth::question(&request) {
            outcome.ignored = Some(what.to_owned());
            return Ok(());
        }
        if request.range.is_some() && !waited_for {
            return Ok(());
        }
        let result = match self.dispatch(&request, waited_for, now, outcome) {
            Ok(Some(response)) => Ok(response),
            Ok(None) => {
                outcome.ignored = Some("a request that this version does not know".to_owned());
                return Ok(());
            }
            Err(Failure::Client(error)) => Err(error),
            Err(Failure::Node(error)) => {
                return Err(Fatal::Mvcc {
                    index: entry.index,
                    error,
                });
            }
        };
        let no_space = matches!(result, Err(api::Error::NoSpace));
        outcome.hints.raise_no_space = no_space && !self.alarms.is_raised(AlarmType::Nospace);
        outcome.result = Some(result);
        Ok(())
    }

    /// Keys, leases and alarms. `None`: none of them is asked for.
    fn dispatch(
        &mut self,
        request: &InternalRaftRequest,
        waited_for: bool,
        now: Duration,
        outcome: &mut Outcome,
    ) -> Result<Option<Response>, Failure> {
        if let Some(range) = &request.range {
            self.refuse_if_corrupt()?;
            let response = mvcc::range_request(&**self.mvcc(), range)?;
            return Ok(Some(Response::Range(response)));
        }
        if let Some(put) = &request.put {
            return self.put(put).map(Some);
        }
        if let Some(delete) = &request.delete_range {
            self.refuse_if_corrupt()?;
            let mut txn = self.mvcc.txn(&mut self.writer);
            let response = kv::delete_range(&mut txn, &self.lessor, delete)?;
            txn.end();
            return Ok(Some(Response::DeleteRange(response)));
        }
        if let Some(txn) = &request.txn {
            return self.txn(txn, waited_for).map(Some);
        }
        if let Some(compaction) = &request.compaction {
            self.refuse_if_corrupt()?;
            self.mvcc.compact(&mut self.writer, compaction.revision)?;
            outcome.hints.compacting = Some(compaction.revision);
            return Ok(Some(Response::Compaction(pb::CompactionResponse {
                header: self.header(),
            })));
        }
        if let Some(grant) = &request.lease_grant {
            return self.lease_grant(grant, now).map(Some);
        }
        if let Some(revoke) = &request.lease_revoke {
            self.refuse_if_corrupt()?;
            return self.lease_revoke(LeaseId(revoke.id)).map(Some);
        }
        if let Some(checkpoint) = &request.lease_checkpoint {
            return Ok(Some(self.lease_checkpoint(checkpoint, now)));
        }
        if let Some(alarm) = &request.alarm {
            outcome.hints.alarms_changed = alarm.action != AlarmAction::Get as i32;
            return Ok(Some(self.alarm(alarm)));
        }
        Ok(None)
    }

    fn put(&mut self, put: &pb::PutRequest) -> Result<Response, Failure> {
        self.refuse_if_corrupt()?;
        self.refuse_if_no_space()?;
        let fits = self.fits(quota::put_cost(put));
        kv::check_lease(&self.lessor, put)?;
        let mut txn = self.mvcc.txn(&mut self.writer);
        let prior = kv::prior(&txn, put)?;
        kv::check_prior(put, prior.as_ref())?;
        let response = kv::put(&mut txn, &self.lessor, put, prior)?;
        txn.end();
        fits.map(|()| Response::Put(response))
    }

    fn txn(&mut self, request: &pb::TxnRequest, waited_for: bool) -> Result<Response, Failure> {
        self.refuse_if_corrupt()?;
        let cost = quota::txn_cost(request);
        if cost > 0 {
            self.refuse_if_no_space()?;
        }
        let fits = self.fits(cost);
        let mut txn = self.mvcc.txn(&mut self.writer);
        let response = txn::txn(&mut txn, &self.lessor, request, waited_for)?;
        txn.end();
        fits.map(|()| Response::Txn(response))
    }

    fn lease_grant(
        &mut self,
        grant: &pb::LeaseGrantRequest,
        now: Duration,
    ) -> Result<Response, Failure> {
        self.refuse_if_corrupt()?;
        self.refuse_if_no_space()?;
        let fits = self.fits(quota::lease_grant_cost(grant));
        let ttl = self
            .lessor
            .grant(LeaseId(grant.id), grant.ttl, now, &mut self.writer)
            .map_err(|error| lease_error(&error))?;
        let response = pb::LeaseGrantResponse {
            header: self.header(),
            id: grant.id,
            ttl,
            ..pb::LeaseGrantResponse::default()
        };
        fits.map(|()| Response::LeaseGrant(response))
    }

    fn lease_revoke(&mut self, id: LeaseId) -> Result<Response, Failure> {
        let keys = self.lessor.keys(id).map_err(|error| lease_error(&error))?;
        let mut txn = self.mvcc.txn(&mut self.writer);
        for key in keys {
            txn.delete_range(&key, &[])?;
        }
        txn.end();
        self.lessor
            .revoke(id, &mut self.writer)
            .map_err(|error| lease_error(&error))?;
        Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse {
            header: self.header(),
        }))
    }

    fn lease_checkpoint(
        &mut self,
        request: &pb::LeaseCheckpointRequest,
        now: Duration,
    ) -> Response {
        let cluster = self.cluster.get();
        let is_new = cluster
            .version()
            .is_some_and(|version| *version >= PERSISTS_CHECKPOINTS);
        let persist = is_new || self.config.persist_checkpoints;
        for checkpoint in &request.checkpoints {
            let id = LeaseId(checkpoint.id);
            self.lessor
                .checkpoint(id, checkpoint.remaining_ttl, persist, now, &mut self.writer);
        }
        Response::LeaseCheckpoint(pb::LeaseCheckpointResponse {
            header: self.header(),
        })
    }

    fn alarm(&mut self, request: &pb::AlarmRequest) -> Response {
        let alarm = pb::AlarmMember {
            member_id: request.member_id,
            alarm: request.alarm,
        };
        let alarms = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.alarms.get(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm == AlarmType::None as i32 => Vec::new(),
            Ok(AlarmAction::Activate) => vec![self.alarms.activate(alarm, &mut self.writer)],
            Ok(AlarmAction::Deactivate) => self
                .alarms
                .deactivate(alarm, &mut self.writer)
                .into_iter()
                .collect(),
            Err(_) => Vec::new(),
        };
        Response::Alarm(pb::AlarmResponse {
            header: self.header(),
            alarms,
        })
    }

    /// What members tell each other through the log. Says whether it was that.
    fn apply_cluster_request(
        &mut self,
        request: &InternalRaftRequest,
        outcome: &mut Outcome,
    ) -> Result<bool, Fatal> {
        if let Some(set) = &request.cluster_version_set {
            self.set_version(&set.ver, outcome)?;
        } else if let Some(set) = &request.cluster_member_attr_set {
            let attributes = set.member_attributes.clone().unwrap_or_default();
            self.set_attributes(
                MemberId(set.member_id),
                attributes.name,
                attributes.client_urls,
                outcome,
            );
        } else if let Some(set) = &request.downgrade_info_set {
            let info = DowngradeInfo {
                target_version: if set.enabled {
                    set.ver.clone()
                } else {
                    String::new()
                },
                enabled: set.enabled,
            };
            let writer = &mut self.writer;
            self.cluster
                .update(|membership| membership.set_downgrade(info, writer));
            outcome.result = Some(Ok(Response::Empty));
        } else if request.downgrade_version_test.is_some() {
            outcome.result = Some(Ok(Response::Empty));
        } else if let Some(request) = &request.v2 {
            self.apply_legacy(request, outcome)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn apply_legacy(&mut self, request: &RequestV2, outcome: &mut Outcome) -> Result<(), Fatal> {
        if outcome.request_id == 0 {
            outcome.request_id = request.id;
        }
        match legacy::read(request) {
            Ok(LegacyRequest::Version(version)) => self.set_version(&version, outcome)?,
            Ok(LegacyRequest::Attributes {
                id,
                name,
                client_urls,
            }) => {
                self.set_attributes(id, name, client_urls, outcome);
            }
            Err(ignored) => outcome.ignored = Some(ignored),
        }
        Ok(())
    }

    fn set_version(&mut self, version: &str, outcome: &mut Outcome) -> Result<(), Fatal> {
        let version: Version = match version.parse() {
            Ok(version) => version,
            Err(error) => {
                outcome.ignored = Some(format!("cluster version: {error}"));
                return Ok(());
            }
        };
        let server = &self.config.server_version;
        if !server.can_serve(&version) {
            return Err(Fatal::TooOld {
                index: outcome.index,
                cluster: version.to_string(),
                server: server.to_string(),
            });
        }
        let writer = &mut self.writer;
        let prior = self
            .cluster
            .update(|membership| membership.set_version(version.clone(), writer));
        outcome.hints.version_changed = true;
        outcome.hints.force_snapshot = prior.is_some_and(|prior| version < prior);
        outcome.result = Some(Ok(Response::Empty));
        Ok(())
    }

    fn set_attributes(
        &mut self,
        id: MemberId,
        name: String,
        client_urls: Vec<String>,
        outcome: &mut Outcome,
    ) {
        let writer = &mut self.writer;
        let result = self
            .cluster
            .update(|membership| membership.set_attributes(id, name, client_urls, writer));
        match result {
            Ok(()) => outcome.result = Some(Ok(Response::Empty)),
            Err(error) => outcome.ignored = Some(format!("member attributes: {error}")),
        }
    }

    /// Whether this much still fits. If not, the request is done all the same, as on every
    /// member that had room, and then answered with the error.
    fn fits(&self, cost: u64) -> Result<(), Failure> {
        if self.config.quota.allows(self.backend.size_bytes(), cost) {
            Ok(())
        } else {
            Err(api::Error::NoSpace.into())
        }
    }

    fn refuse_if_no_space(&self) -> Result<(), Failure> {
        if self.alarms.is_raised(AlarmType::Nospace) {
            Err(api::Error::NoSpace.into())
        } else {
            Ok(())
        }
    }

    fn refuse_if_corrupt(&self) -> Result<(), Failure> {
        if self.alarms.is_raised(AlarmType::Corrupt) {
            Err(api::Error::Corrupt.into())
        } else {
            Ok(())
        }
    }

    fn header(&self) -> Option<pb::ResponseHeader> {
        header(self.mvcc().revision())
    }
}
