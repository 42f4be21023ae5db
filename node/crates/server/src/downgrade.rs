//! Downgrade: asked for by a client, written through raft, ended by the leader (etcd
//! `etcdserver/version`).
//!
//! Enabling it changes nothing at once: the leader then lowers the cluster's version (`monitor`),
//! each member's storage follows when its log allows it, and members may be replaced by the older
//! version. Once all run that, the leader cancels it.

use api::etcdserverpb as pb;
use api::membershippb;
use membership::{Membership, Version};

use crate::lane::Lane;
use crate::member::Member;

impl Member {
    /// Whether the cluster may be downgraded to this version; the cluster's version.
    pub async fn downgrade_validate(
        &self,
        lane: &Lane,
        target: &str,
    ) -> Result<String, api::Error> {
        let target = target_version(target)?;
        let version = self.version_or_error()?;
        self.may_downgrade_to(lane, &target).await?;
        Ok(version)
    }

    /// Starts a downgrade to this version; the cluster's version.
    pub async fn downgrade_enable(&self, lane: &Lane, target: &str) -> Result<String, api::Error> {
        let target = target_version(target)?;
        self.may_downgrade_to(lane, &target).await?;
        self.set_downgrade(lane, true, target.to_string()).await?;
        self.version_or_error()
    }

    /// Ends a downgrade; the cluster's version. That there is none is no error for the caller, in
    /// etcd either: it is logged.
    pub async fn downgrade_cancel(&self, lane: &Lane) -> Result<String, api::Error> {
        if let Err(error) = self.downgrade_cancel_here(lane).await {
            tracing::warn!(%error, "failed to cancel downgrade");
        }
        self.version_or_error()
    }

    /// Ends a downgrade, or says why not.
    pub async fn downgrade_cancel_here(&self, lane: &Lane) -> Result<(), api::Error> {
        lane.linearizable_read().await?;
        if !self.state().cluster.get().downgrade().enabled {
            return Err(api::Error::NoInflightDowngrade);
        }
        self.set_downgrade(lane, false, String::new()).await
    }

    async fn may_downgrade_to(&self, lane: &Lane, target: &Version) -> Result<(), api::Error> {
        // What is decided must be known here first.
        lane.linearizable_read().await?;
        let cluster = self.state().cluster.get();
        let version = cluster
            .version()
            .ok_or(api::Error::ClusterVersionUnavailable)?;
        if !is_downgrade(version, target) {
            return Err(api::Error::InvalidDowngradeTargetVersion);
        }
        if cluster.downgrade().enabled {
            return Err(api::Error::DowngradeInProcess);
        }
        Ok(())
    }

    async fn set_downgrade(
        &self,
        lane: &Lane,
        enabled: bool,
        ver: String,
    ) -> Result<(), api::Error> {
        let request = pb::InternalRaftRequest {
            downgrade_info_set: Some(membershippb::DowngradeInfoSetRequest { enabled, ver }),
            ..Default::default()
        };
        self.propose(lane, request).await.map(|_| ())
    }

    fn version_or_error(&self) -> Result<String, api::Error> {
        let cluster: std::sync::Arc<Membership> = self.state().cluster.get();
        // As etcd prints a cluster's version: without the patch.
        let version = cluster
            .version()
            .ok_or(api::Error::ClusterVersionUnavailable)?;
        Ok(format!("{}.{}", version.major, version.minor))
    }
}

/// Whether `target` is the one version that a cluster of `version` may be downgraded to.
pub fn is_downgrade(version: &Version, target: &Version) -> bool {
    version.major == target.major && version.minor == target.minor + 1
}

/// `3.6.0` or `3.6`; only major and minor count.
fn target_version(text: &str) -> Result<Version, api::Error> {
    let parsed: Version = text
        .parse()
        .or_else(|_| format!("{text}.0").parse())
        .map_err(|_| api::Error::WrongDowngradeVersionFormat)?;
    Ok(parsed.to_minor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_version_with_or_without_a_patch() {
        for text in ["3.6.0", "3.6", "3.6.9"] {
            assert_eq!(target_version(text).expect(text).to_string(), "3.6.0");
        }
        for text in ["", "3", "x", "3.6.0.0", "v3.6.0"] {
            assert_eq!(
                target_version(text),
                Err(api::Error::WrongDowngradeVersionFormat),
                "{text}"
            );
        }
    }

    #[test]
    fn a_downgrade_goes_one_minor_down() {
        let version = |text: &str| text.parse::<Version>().expect(text);
        assert!(is_downgrade(&version("3.7.0"), &version("3.6.0")));
        for target in ["3.7.0", "3.5.0", "3.8.0", "2.6.0"] {
            assert!(
                !is_downgrade(&version("3.7.0"), &version(target)),
                "{target}"
            );
        }
    }
}
