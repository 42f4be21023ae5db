package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"
)

// writePatience is how long one write may take before we call it unanswered; the API server's own limit for
// the store is shorter.
const writePatience = 30 * time.Second

// afterFailure lets a worker breathe, so that a server without a store is not flooded.
const afterFailure = 20 * time.Millisecond

// writesResult is what `writes` prints at its end. Times are milliseconds, or Unix time in milliseconds.
type writesResult struct {
	Requests     map[string]summary `json:"requests"`
	Acknowledged int                `json:"acknowledged"`
	Objects      int                `json:"objects"`
	// Writes whose answer was an error: they may have happened or not.
	Failed   int            `json:"failed"`
	Failures map[string]int `json:"failures"`
	// The longest time in which no write was acknowledged to anybody.
	GapMS    int64 `json:"gap_ms"`
	GapBegan int64 `json:"gap_began_unix_ms"`
	GapEnded int64 `json:"gap_ended_unix_ms"`
	Events   int   `json:"events"`
	// How often the watch had to be asked for again, from where it had ended.
	WatchRestarts int `json:"watch_restarts"`
}

// absent is the version of an object that is not there.
const absent = 0

// state is what we know of one object. Only its worker writes it.
type state struct {
	// The last acknowledged version, and its resource version.
	version         int
	resourceVersion string
	// A write without an answer may have made it this version; -1: there was none.
	maybe int
}

// change is one acknowledged write that the watch must show once.
type change struct {
	name            string
	kind            watch.EventType
	resourceVersion string // empty for a deletion, whose answer does not tell it
}

// ledger is what was written, and when the server said so.
type ledger struct {
	lock     sync.Mutex
	objects  map[string]*state
	changes  []change
	failed   int
	failures map[string]int
	lastAck  time.Time
	gapBegan time.Time
	gapEnded time.Time
}

func (l *ledger) acknowledge(one change) {
	l.lock.Lock()
	defer l.lock.Unlock()
	now := time.Now()
	if now.Sub(l.lastAck) > l.gapEnded.Sub(l.gapBegan) {
		l.gapBegan, l.gapEnded = l.lastAck, now
	}
	l.lastAck = now
	l.changes = append(l.changes, one)
}

func (l *ledger) fail(err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	l.failed++
	l.failures[fmt.Sprintf("%.100s", err)]++
}

func (l *ledger) acknowledged() int {
	l.lock.Lock()
	defer l.lock.Unlock()
	return len(l.changes)
}

// writes creates, changes and deletes objects until standard input ends; says `acknowledged N` while it does;
// then looks for every acknowledged write in a list and in a watch that ran all the time.
func writes(ctx context.Context, client *kubernetes.Clientset, p plan) (*writesResult, error) {
	maps := client.CoreV1().ConfigMaps(p.namespace)
	before, err := maps.List(ctx, meta.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	l := &ledger{objects: map[string]*state{}, failures: map[string]int{}, lastAck: time.Now()}
	l.gapBegan, l.gapEnded = l.lastAck, l.lastAck
	times := newFigures()
	seen := make(chan followed, 1)
	go func() { seen <- follow(ctx, maps, before.ResourceVersion) }()

	stop := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var group sync.WaitGroup
	for worker := range p.workers {
		group.Go(func() { work(ctx, maps, p, l, times, worker, stop) })
	}
	tell(l, stop)
	group.Wait()

	if _, err := maps.Create(ctx, configMap(sentinel, 1, p.bytes), meta.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("after the load: %w", err)
	}
	watched := <-seen
	if watched.err != nil {
		return nil, fmt.Errorf("watch: %w", watched.err)
	}
	list, err := maps.List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list after the load: %w", err)
	}
	if err := l.compareWithList(list); err != nil {
		return nil, err
	}
	if err := l.compareWithEvents(watched.events); err != nil {
		return nil, err
	}
	return &writesResult{
		Requests:      times.summaries(),
		Acknowledged:  len(l.changes),
		Objects:       len(l.objects),
		Failed:        l.failed,
		Failures:      l.failures,
		GapMS:         l.gapEnded.Sub(l.gapBegan).Milliseconds(),
		GapBegan:      l.gapBegan.UnixMilli(),
		GapEnded:      l.gapEnded.UnixMilli(),
		Events:        len(watched.events),
		WatchRestarts: watched.restarts,
	}, nil
}

func tell(l *ledger, stop <-chan struct{}) {
	const pause = 100 * time.Millisecond
	for {
		select {
		case <-stop:
			return
		case <-time.After(pause):
			fmt.Printf("acknowledged %d\n", l.acknowledged())
		}
	}
}

// work takes one object after the other through its life: made, changed twice, every third one deleted.
func work(ctx context.Context, maps typed.ConfigMapInterface, p plan, l *ledger, times *figures, worker int, stop <-chan struct{}) {
	for number := 0; ; number++ {
		select {
		case <-stop:
			return
		default:
		}
		name := fmt.Sprintf("write-%02d-%06d", worker, number)
		object := &state{maybe: -1}
		l.lock.Lock()
		l.objects[name] = object
		l.lock.Unlock()
		if err := live(ctx, maps, p, l, times, object, name, number%3 == 0); err != nil {
			l.fail(err)
			time.Sleep(afterFailure)
		}
	}
}

func live(ctx context.Context, maps typed.ConfigMapInterface, p plan, l *ledger, times *figures, object *state, name string, remove bool) error {
	const versions = 3
	for version := 1; version <= versions; version++ {
		kind, request := watch.Modified, "update"
		if version == 1 {
			kind, request = watch.Added, "create"
		}
		err := timed(ctx, times, request, func(ctx context.Context) error {
			object.maybe = version
			contents := configMap(name, version, p.bytes)
			var answer *core.ConfigMap
			var err error
			if version == 1 {
				answer, err = maps.Create(ctx, contents, meta.CreateOptions{})
			} else {
				answer, err = maps.Update(ctx, contents, meta.UpdateOptions{})
			}
			if err == nil {
				*object = state{version, answer.ResourceVersion, -1}
			}
			return err
		})
		if err != nil {
			return err
		}
		l.acknowledge(change{name, kind, object.resourceVersion})
	}
	if !remove {
		return nil
	}
	err := timed(ctx, times, "delete", func(ctx context.Context) error {
		object.maybe = absent
		err := maps.Delete(ctx, name, meta.DeleteOptions{})
		if err == nil {
			*object = state{absent, "", -1}
		}
		return err
	})
	if err == nil {
		l.acknowledge(change{name, watch.Deleted, ""})
	}
	return err
}

func timed(ctx context.Context, times *figures, request string, one func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	begin := time.Now()
	err := one(ctx)
	if err == nil {
		times.note(request, time.Since(begin))
	}
	return err
}

// compareWithList: every object is as its last acknowledged write left it, or as the one without an answer.
func (l *ledger) compareWithList(list *core.ConfigMapList) error {
	found := map[string]*core.ConfigMap{}
	for _, object := range ours(list.Items) {
		found[object.Name] = object
	}
	for name, object := range l.objects {
		now, resourceVersion := absent, ""
		if there, is := found[name]; is {
			var err error
			if now, err = version(there); err != nil {
				return err
			}
			resourceVersion = there.ResourceVersion
		}
		if now == object.version && resourceVersion == object.resourceVersion || now == object.maybe {
			continue
		}
		return fmt.Errorf("%s: acknowledged version %d at %q, perhaps %d; the list has version %d at %q",
			name, object.version, object.resourceVersion, object.maybe, now, resourceVersion)
	}
	for name := range found {
		if _, known := l.objects[name]; !known && name != sentinel {
			return fmt.Errorf("%s is in the list, and was never written", name)
		}
	}
	return nil
}

// compareWithEvents: every acknowledged write was seen once, and nothing twice.
func (l *ledger) compareWithEvents(events []happened) error {
	type key struct {
		name string
		kind watch.EventType
		data int
	}
	seen := map[key]string{}
	byVersion := map[string]happened{}
	for _, event := range events {
		k := key{event.name, event.kind, event.data}
		if _, twice := seen[k]; twice {
			return fmt.Errorf("watch: %s of %s version %d came twice", event.kind, event.name, event.data)
		}
		seen[k] = event.version
		byVersion[event.version] = event
	}
	deleted := map[string]bool{}
	for _, event := range events {
		if event.kind == watch.Deleted {
			deleted[event.name] = true
		}
	}
	for _, one := range l.changes {
		if one.kind == watch.Deleted {
			if !deleted[one.name] {
				return fmt.Errorf("watch: the deletion of %s was acknowledged and not seen", one.name)
			}
			continue
		}
		if event := byVersion[one.resourceVersion]; event.name != one.name || event.kind != one.kind {
			return fmt.Errorf("watch: %s of %s at %s was acknowledged and not seen", one.kind, one.name, one.resourceVersion)
		}
	}
	return nil
}

type followed struct {
	events   []happened
	restarts int
	err      error
}

// follow watches until the sentinel comes; a watch that ends is asked for again from its last event.
func follow(ctx context.Context, maps typed.ConfigMapInterface, from string) followed {
	result := followed{restarts: -1}
	last, quiet := from, time.Now()
	for {
		result.restarts++
		watcher, err := maps.Watch(ctx, meta.ListOptions{ResourceVersion: last, AllowWatchBookmarks: true})
		if err != nil {
			if apierrors.IsResourceExpired(err) || time.Since(quiet) > eventPatience {
				return followed{err: err}
			}
			time.Sleep(afterFailure)
			continue
		}
		done, err := result.take(watcher, &last, &quiet)
		watcher.Stop()
		if err != nil {
			return followed{err: err}
		}
		if done {
			return result
		}
	}
}

// take keeps the events of one watch; true: the sentinel came. False: ask again.
func (f *followed) take(watcher watch.Interface, last *string, quiet *time.Time) (bool, error) {
	for {
		select {
		case event, open := <-watcher.ResultChan():
			if !open {
				return false, nil
			}
			if event.Type == watch.Error {
				err := apierrors.FromObject(event.Object)
				if apierrors.IsResourceExpired(err) {
					return false, err
				}
				return false, nil
			}
			object, isMap := event.Object.(*core.ConfigMap)
			if !isMap {
				return false, fmt.Errorf("event %s with %+v", event.Type, event.Object)
			}
			*quiet = time.Now()
			if event.Type == watch.Bookmark {
				*last = object.ResourceVersion
				continue
			}
			if err := later(object, *last); err != nil {
				return false, err
			}
			*last = object.ResourceVersion
			if object.Name == sentinel {
				return true, nil
			}
			if object.Labels["made-by"] != "kubeload" {
				continue
			}
			number, err := version(object)
			if err != nil {
				return false, err
			}
			f.events = append(f.events,
				happened{object.Name, event.Type, object.ResourceVersion, number, time.Now()})
		case <-time.After(eventPatience):
			return false, fmt.Errorf("no event for %v after %d", eventPatience, len(f.events))
		}
	}
}

func later(object *core.ConfigMap, last string) error {
	at, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	if err != nil {
		return err
	}
	before, err := strconv.ParseUint(last, 10, 64)
	if err != nil {
		return err
	}
	if at <= before {
		return fmt.Errorf("event of %s at %d after %d", object.Name, at, before)
	}
	return nil
}
