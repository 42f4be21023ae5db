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

/// A promotion waits until the learner has been connected for five seconds (`docs/known-differences.md`),
/// and etcdctl waits for five seconds too. These promote as soon as the learner serves, some 50 ms after it
/// was connected: on a busy machine that is not always enough, and then they are tried again.
const PROMOTE_AT_ONCE: &[&str] = &[
    "TestClusterUpgradeAfterPromotingMembers",
    "TestForceNewCluster",
    "TestForceNewCluster_MemberCount",
    "TestMemberReplaceWithLearner",
    "TestReproduce20340",
    "TestRuntimeReconfigGrowClusterSize",
    "TestRuntimeReconfigRollingUpgrade",
];

/// How often a function is tried whose promotion came too late.
const TRIES: usize = 3;

#[test]
fn members_and_runtime_reconfiguration() {
    let long = if whole() { LONG } else { &[] };
    for function in QUICK.iter().chain(long) {
        let mut tries = 1;
        while let Err(failure) = E2E.attempt(function, "") {
            let late = failure.contains("member promote")
                && failure.contains("Error: context deadline exceeded");
            let again = late && PROMOTE_AT_ONCE.contains(function) && tries < TRIES;
            assert!(again, "{failure}");
            eprintln!("{function}: a promotion came too late, once more");
            tries += 1;
        }
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
