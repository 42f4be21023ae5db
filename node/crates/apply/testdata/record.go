// Records what a real etcd 3.7.3 did with a log: its entries, its answers, its database at
// the end. The test tests/replay.rs applies the entries and must come to the same.
//
//	cd tests/tools/etcd && go run ../../../node/crates/apply/testdata/record.go \
//	    ../../../target/tools/etcd ../../../node/crates/apply/testdata/replay.bin
//
// The recording is a list of items: a letter, a length (uint32, little endian), a body.
//
//	E  raftpb.Entry
//	A  index of the entry (uint64), a letter for the type, the response's bytes
//	X  index of the entry (uint64), code (uint32), text: the request was refused at apply
//	K  length of the bucket's name (uint8), of the key (uint32), name, key, value
//	H  HashKVResponse of the current revision
//	Q  code (uint32), length of the text (uint8), text, TxnRequest: what the gRPC door said
//	   to a transaction, code 0 if it let it pass
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	client1, peer1 = "http://127.0.0.1:42379", "http://127.0.0.1:42380"
	client2, peer2 = "http://127.0.0.1:42381", "http://127.0.0.1:42382"
)

var out *os.File

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func item(kind byte, body []byte) {
	head := make([]byte, 5)
	head[0] = kind
	binary.LittleEndian.PutUint32(head[1:], uint32(len(body)))
	_, err := out.Write(append(head, body...))
	must(err)
}

func start(binary, name, dir, client, peer, cluster, state string) *exec.Cmd {
	cmd := exec.Command(binary, "--name", name, "--data-dir", dir, "--listen-client-urls", client,
		"--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", cluster, "--initial-cluster-state", state, "--strict-reconfig-check=false",
		"--snapshot-count", "100000", "--log-level", "error", "--max-learners", "1")
	cmd.Stderr = os.Stderr
	must(cmd.Start())
	return cmd
}

type recorder struct {
	maintenance pb.MaintenanceClient
	items       func()
}

func (r *recorder) index() uint64 {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		s, err := r.maintenance.Status(ctx, &pb.StatusRequest{})
		cancel()
		if err == nil && s.RaftIndex == s.RaftAppliedIndex && s.Leader != 0 {
			return s.RaftAppliedIndex
		}
		time.Sleep(10 * time.Millisecond)
	}
}

var answers []func()

// call makes a request and records the answer, if the request came into the log.
func call[Q any, S proto.Message](r *recorder, kind byte, f func(context.Context, Q, ...grpc.CallOption) (S, error), q Q) S {
	before := r.index()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	response, err := f(ctx, q)
	after := r.index()
	if after == before {
		return response
	}
	if after != before+1 {
		panic(fmt.Sprintf("%c: %d entries", kind, after-before))
	}
	body := binary.LittleEndian.AppendUint64(nil, after)
	if err != nil {
		s := status.Convert(err)
		body = binary.LittleEndian.AppendUint32(body, uint32(s.Code()))
		body = append(body, s.Message()...)
		answers = append(answers, func() { item('X', body) })
		return response
	}
	bytes, err := proto.Marshal(response)
	must(err)
	body = append(append(body, kind), bytes...)
	answers = append(answers, func() { item('A', body) })
	return response
}

func key(rnd *rand.Rand) []byte {
	return []byte(fmt.Sprintf("k%d", rnd.Intn(12)))
}

func end(rnd *rand.Rand) []byte {
	switch rnd.Intn(6) {
	case 0:
		return []byte{0}
	case 1, 2:
		return key(rnd)
	}
	return nil
}

func put(rnd *rand.Rand, k []byte) *pb.PutRequest {
	p := &pb.PutRequest{Key: k, PrevKv: rnd.Intn(3) == 0}
	switch rnd.Intn(6) {
	case 0:
		p.IgnoreValue = true
	case 1:
		p.Value = []byte{}
	default:
		p.Value = make([]byte, rnd.Intn(20))
		rnd.Read(p.Value)
	}
	switch rnd.Intn(6) {
	case 0:
		p.IgnoreLease = true
	case 1, 2:
		p.Lease = int64(rnd.Intn(5))
	}
	return p
}

func ranges(rnd *rand.Rand) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: key(rnd), RangeEnd: end(rnd), Limit: int64(rnd.Intn(4)), KeysOnly: rnd.Intn(5) == 0, CountOnly: rnd.Intn(6) == 0}
	if rnd.Intn(8) == 0 {
		r.Revision = int64(rnd.Intn(400)) - 3
	}
	if rnd.Intn(6) == 0 {
		r.SortTarget = pb.RangeRequest_KEY
		r.SortOrder = pb.RangeRequest_DESCEND
	}
	if rnd.Intn(8) == 0 {
		r.MinModRevision = int64(rnd.Intn(200))
	}
	return r
}

func compare(rnd *rand.Rand) *pb.Compare {
	c := &pb.Compare{Key: key(rnd), Result: pb.Compare_CompareResult(rnd.Intn(4)), Target: pb.Compare_CompareTarget(rnd.Intn(5))}
	if rnd.Intn(4) == 0 {
		c.RangeEnd = end(rnd)
	}
	n := int64(rnd.Intn(6))
	switch rnd.Intn(6) {
	case 0:
		c.TargetUnion = &pb.Compare_Version{Version: n}
	case 1:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: n * 30}
	case 2:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: n * 50}
	case 3:
		c.TargetUnion = &pb.Compare_Value{Value: []byte{byte(rnd.Intn(256))}}
	case 4:
		c.TargetUnion = &pb.Compare_Lease{Lease: n}
	}
	return c
}

func ops(rnd *rand.Rand, depth int) []*pb.RequestOp {
	var list []*pb.RequestOp
	for range rnd.Intn(4) {
		switch n := rnd.Intn(8); {
		case n < 2:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: ranges(rnd)}})
		case n < 5:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(rnd, key(rnd))}})
		case n < 6:
			d := &pb.DeleteRangeRequest{Key: key(rnd), RangeEnd: end(rnd), PrevKv: rnd.Intn(2) == 0}
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}})
		case depth < 3:
			list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn(rnd, depth+1)}})
		}
	}
	return list
}

func txn(rnd *rand.Rand, depth int) *pb.TxnRequest {
	t := &pb.TxnRequest{Success: ops(rnd, depth), Failure: ops(rnd, depth)}
	for range rnd.Intn(3) {
		t.Compare = append(t.Compare, compare(rnd))
	}
	return t
}

// wild makes transactions that the door may refuse, each for one reason or another.
func wild(rnd *rand.Rand, depth int) *pb.TxnRequest {
	var branch func() []*pb.RequestOp
	key := func() []byte {
		if rnd.Intn(200) == 0 {
			return nil
		}
		return []byte{byte('a' + rnd.Intn(8))}
	}
	end := func() []byte {
		return [][]byte{nil, nil, nil, {0}, key(), key()}[rnd.Intn(6)]
	}
	branch = func() []*pb.RequestOp {
		var list []*pb.RequestOp
		for range rnd.Intn(4) {
			switch n := rnd.Intn(40); {
			case n == 0 && rnd.Intn(5) == 0:
				list = append(list, &pb.RequestOp{})
			case n < 6:
				r := &pb.RangeRequest{Key: key(), RangeEnd: end()}
				if rnd.Intn(10) == 0 {
					r.SortOrder = pb.RangeRequest_SortOrder(rnd.Intn(5))
					r.SortTarget = pb.RangeRequest_SortTarget(rnd.Intn(7))
				}
				list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}})
			case n < 18:
				p := &pb.PutRequest{Key: key(), IgnoreValue: rnd.Intn(20) == 0, IgnoreLease: rnd.Intn(20) == 0}
				if rnd.Intn(4) == 0 {
					p.Value = []byte("v")
				}
				if rnd.Intn(20) == 0 {
					p.Lease = 1
				}
				list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}})
			case n < 25:
				d := &pb.DeleteRangeRequest{Key: key(), RangeEnd: end()}
				list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}})
			case depth < 4:
				list = append(list, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: wild(rnd, depth+1)}})
			}
		}
		return list
	}
	t := &pb.TxnRequest{Success: branch(), Failure: branch()}
	compares := 0
	switch n := rnd.Intn(100); {
	case n == 0 && depth == 0:
		compares = 120 + rnd.Intn(12)
	case n < 10:
		compares = 1
	}
	for range compares {
		t.Compare = append(t.Compare, &pb.Compare{Key: key()})
	}
	return t
}

func main() {
	etcd, target := os.Args[1], os.Args[2]
	dir, err := os.MkdirTemp("", "record")
	must(err)
	defer os.RemoveAll(dir)
	first := start(etcd, "a<1>", filepath.Join(dir, "1"), client1, peer1, "a<1>="+peer1, "new")
	conn, err := grpc.NewClient(client1[len("http://"):], grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	r := &recorder{maintenance: pb.NewMaintenanceClient(conn)}
	kv, leases, cluster := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewClusterClient(conn)
	for r.index() < 4 {
		time.Sleep(50 * time.Millisecond)
	}

	rnd := rand.New(rand.NewSource(1))
	random := func(count int) {
		for range count {
			switch n := rnd.Intn(20); {
			case n < 6:
				call(r, 'P', kv.Put, put(rnd, key(rnd)))
			case n < 8:
				call(r, 'D', kv.DeleteRange, &pb.DeleteRangeRequest{Key: key(rnd), RangeEnd: end(rnd), PrevKv: rnd.Intn(2) == 0})
			case n < 16:
				call(r, 'T', kv.Txn, txn(rnd, 0))
			case n < 18:
				call(r, 'G', leases.LeaseGrant, &pb.LeaseGrantRequest{ID: int64(1 + rnd.Intn(4)), TTL: int64(5000 + rnd.Intn(100))})
			case n < 19:
				call(r, 'V', leases.LeaseRevoke, &pb.LeaseRevokeRequest{ID: int64(1 + rnd.Intn(4))})
			default:
				s, err := r.maintenance.Status(context.Background(), &pb.StatusRequest{})
				must(err)
				// Physical: the database must not depend on how far a compaction came.
				c := &pb.CompactionRequest{Revision: s.Header.Revision - int64(rnd.Intn(20)) + 2, Physical: true}
				call(r, 'C', kv.Compact, c)
			}
		}
	}
	random(700)
	for range 500 {
		q := wild(rnd, 0)
		before := r.index()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := kv.Txn(ctx, q)
		cancel()
		body := make([]byte, 4)
		text := ""
		if err != nil && r.index() == before {
			s := status.Convert(err)
			binary.LittleEndian.PutUint32(body, uint32(s.Code()))
			text = s.Message()
		}
		bytes, err := proto.Marshal(q)
		must(err)
		body = append(append(append(body, byte(len(text))), text...), bytes...)
		answers = append(answers, func() { item('Q', body) })
	}
	call(r, 'G', leases.LeaseGrant, &pb.LeaseGrantRequest{ID: 77, TTL: 9000000001})
	call(r, 'G', leases.LeaseGrant, &pb.LeaseGrantRequest{ID: 78, TTL: 9000000000})
	call(r, 'G', leases.LeaseGrant, &pb.LeaseGrantRequest{ID: -79, TTL: 600})
	call(r, 'V', leases.LeaseRevoke, &pb.LeaseRevokeRequest{ID: 999})

	// Members: a learner, one too many, a URL twice, a start, a promotion, other URLs, a removal.
	added := call(r, 'M', cluster.MemberAdd, &pb.MemberAddRequest{PeerURLs: []string{peer2}, IsLearner: true})
	call(r, 'M', cluster.MemberAdd, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:9"}, IsLearner: true})
	call(r, 'M', cluster.MemberAdd, &pb.MemberAddRequest{PeerURLs: []string{peer2}})
	call(r, 'M', cluster.MemberRemove, &pb.MemberRemoveRequest{ID: 12345})
	second := start(etcd, "b", filepath.Join(dir, "2"), client2, peer2, "a<1>="+peer1+",b="+peer2, "existing")
	for started := false; !started; time.Sleep(50 * time.Millisecond) {
		list, err := cluster.MemberList(context.Background(), &pb.MemberListRequest{})
		must(err)
		started = list.Members[0].Name != "" && list.Members[1].Name != ""
	}
	time.Sleep(time.Second)
	call(r, 'm', cluster.MemberPromote, &pb.MemberPromoteRequest{ID: added.Member.ID})
	call(r, 'm', cluster.MemberUpdate, &pb.MemberUpdateRequest{ID: added.Member.ID, PeerURLs: []string{peer1}})
	call(r, 'm', cluster.MemberUpdate, &pb.MemberUpdateRequest{ID: added.Member.ID, PeerURLs: []string{peer2, "http://localhost:42382"}})
	random(20)
	call(r, 'm', cluster.MemberRemove, &pb.MemberRemoveRequest{ID: added.Member.ID})
	call(r, 'm', cluster.MemberRemove, &pb.MemberRemoveRequest{ID: added.Member.ID})
	must(second.Process.Kill())
	second.Wait()
	call(r, 'M', cluster.MemberAdd, &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:9"}, IsLearner: true})

	// Alarms: out of space, then corrupt as well.
	alarm := func(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) {
		call(r, 'L', r.maintenance.Alarm, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind})
	}
	alarm(pb.AlarmRequest_ACTIVATE, 7, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_ACTIVATE, 7, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_DEACTIVATE, 0, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_ACTIVATE, 8, pb.AlarmType_NONE)
	random(25)
	alarm(pb.AlarmRequest_ACTIVATE, 9, pb.AlarmType_CORRUPT)
	random(25)
	alarm(pb.AlarmRequest_DEACTIVATE, 9, pb.AlarmType_CORRUPT)
	alarm(pb.AlarmRequest_DEACTIVATE, 7, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_ACTIVATE, 10, pb.AlarmType_NOSPACE)
	alarm(pb.AlarmRequest_DEACTIVATE, 10, pb.AlarmType_NOSPACE)
	random(60)
	alarm(pb.AlarmRequest_ACTIVATE, 11, pb.AlarmType_CORRUPT)

	hash, err := r.maintenance.HashKV(context.Background(), &pb.HashKVRequest{})
	must(err)
	must(first.Process.Signal(os.Interrupt))
	first.Wait()

	out, err = os.Create(target)
	must(err)
	w, err := wal.OpenForRead(zap.NewNop(), filepath.Join(dir, "1/member/wal"), &walpb.Snapshot{Index: new(uint64), Term: new(uint64)})
	must(err)
	_, _, entries, err := w.ReadAll()
	must(err)
	for _, e := range entries {
		bytes, err := proto.Marshal(e)
		must(err)
		item('E', bytes)
	}
	for _, answer := range answers {
		answer()
	}
	db, err := bolt.Open(filepath.Join(dir, "1/member/snap/db"), 0o600, &bolt.Options{ReadOnly: true})
	must(err)
	must(db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				body := []byte{byte(len(name))}
				body = binary.LittleEndian.AppendUint32(body, uint32(len(k)))
				item('K', append(append(append(body, name...), k...), v...))
				return nil
			})
		})
	}))
	bytes, err := proto.Marshal(hash)
	must(err)
	item('H', bytes)
	fmt.Println(len(entries), "entries,", len(answers), "answers")
}
