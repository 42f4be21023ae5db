//! What the suite `e2e` asks about members and their changes.

use crate::later::Later;
use crate::suite::{E2E, whole};

/// Functions with such a word in their names are about members.
const WORDS: [&str; 6] = [
    "Member",
    "Learner",
    "Reconfig",
    "ForceNewCluster",
    "Reproduce20340",
    "MultiPeer",
];

/// Seconds each; `make test` runs these.
const QUICK: &[&str] = &[
    "TestCtlV3MemberListSerializable",
    "TestCtlV3MemberUpdateNoTLS",
    "TestRemoveNonExistingMember",
    "TestMemberReplaceWithLearner",
];

/// Most of their time they wait until members count as connected.
const LONG: &[&str] = &[
    "TestClusterUpgradeAfterPromotingMembers",
    "TestCtlV3ConsistentMemberList",
    "TestCtlV3MemberAddAsLearnerWithOneMemberDown",
    "TestEtcdMultiPeer",
    "TestForceNewCluster",
    "TestForceNewCluster_AddLearner_MemberCount",
    "TestForceNewCluster_MemberCount",
    "TestMemberReplace",
    "TestMixVersionsSnapshotByAddingMember",
    "TestReproduce20340",
    "TestRuntimeReconfigDecreaseClusterSize",
    "TestRuntimeReconfigGrowClusterSize",
    "TestRuntimeReconfigRollingUpgrade",
];

#[test]
fn members_and_runtime_reconfiguration() {
    let long = if whole() { LONG } else { &[] };
    for function in QUICK.iter().chain(long) {
        E2E.run(function, "");
    }
}

#[test]
fn nothing_about_members_is_forgotten() {
    let about_members = |name: &str| {
        // The "other member" of a lease's test is only another endpoint.
        !name.starts_with("TestLease") && WORDS.iter().any(|word| name.contains(word))
    };
    let run = [QUICK, LONG].concat();
    E2E.forgets_nothing(
        "conformance::nothing_about_members_is_forgotten",
        &run,
        &Later::read().e2e,
        about_members,
    );
}
