//! The suite `common`.

use crate::later::Later;
use crate::suite::COMMON;

/// `name: function, the short form below it;`
macro_rules! suite {
    ($($name:ident: $function:literal, $short:literal;)*) => {
        /// The functions that run.
        const RUN: &[&str] = &[$($function),*];

        $(
            #[test]
            fn $name() {
                COMMON.run($function, $short);
            }
        )*
    };
}

suite! {
    alarm: "TestAlarm", "";
    alarm_list_on_member_restart: "TestAlarmlistOnMemberRestart", "";
    compact: "TestCompact", "Physical";
    defragment_online: "TestDefragOnline", "";
    endpoint_hash_kv: "TestEndpointHashKV", "";
    endpoint_health: "TestEndpointHealth", "";
    endpoint_status: "TestEndpointStatus", "";
    hash_kv_after_compact: "TestVerifyHashKVAfterCompact",
        "Keys=\\[key0\\]/CompactedOnTombstone=true/MinorityLastVersion";
    hash_kv_after_compact_and_defragment: "TestVerifyHashKVAfterCompactAndDefrag", "NoTLS";
    hash_kv_after_compact_on_last_tombstone: "TestVerifyHashKVAfterCompactOnLastTombstone",
        "Keys=\\[key0_key1\\]/QuorumLastVersion";
    hash_kv_after_two_compacts_on_tombstone: "TestVerifyHashKVAfterTwoCompactsOnTombstone",
        "MinorityLastVersion";
    kv_delete: "TestKVDelete", "NoTLS";
    kv_get: "TestKVGet", "NoTLS";
    kv_get_no_quorum: "TestKVGetNoQuorum", "Serializable";
    kv_get_stream: "TestKVGetStream", "NoTLS";
    kv_put: "TestKVPut", "NoTLS";
    lease_grant_and_list: "TestLeaseGrantAndList", "NoTLS/many_leases";
    lease_keep_alive_once: "TestLeaseGrantKeepAliveOnce", "NoTLS";
    lease_revoke: "TestLeaseGrantRevoke", "NoTLS";
    lease_time_to_live: "TestLeaseGrantTimeToLive", "NoTLS";
    lease_time_to_live_expired: "TestLeaseGrantTimeToLiveExpired", "NoTLS";
    member_add: "TestMemberAdd", "Learner/StrictReconfigCheck/NoWaitForQuorum/NoTLS";
    member_list: "TestMemberList", "QuorumLastVersion";
    member_remove: "TestMemberRemove", "DisableStrictReconfigCheck/NoWaitForQuorum/MinorityLastVersion";
    status: "TestStatus", "MinorityLastVersion";
    txn_fail: "TestTxnFail", "NoTLS";
    txn_success: "TestTxnSucc", "NoTLS";
    wait_leader: "TestWaitLeader", "QuorumLastVersion";
    watch: "TestWatch", "NoTLS";
}

#[test]
fn nothing_is_forgotten() {
    COMMON.forgets_nothing(
        "conformance::nothing_is_forgotten",
        RUN,
        &Later::read().tests,
        |_| true,
    );
}
