package main

import (
	"context"
	"fmt"
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

// pageObjects is the size of a page: what kubectl and the controllers ask for.
const pageObjects = 500

// eventPatience is how long no event may come while some are owed.
const eventPatience = 30 * time.Second

// objectsResult is what `objects` prints.
type objectsResult struct {
	Requests map[string]summary `json:"requests"`
	Pages    int                `json:"pages"`
	Events   int                `json:"events"`
	Expired  bool               `json:"expired"`
}

// objects makes ConfigMaps, reads and lists them, and changes one half and deletes the other under a watch.
func objects(ctx context.Context, client *kubernetes.Clientset, p plan) (*objectsResult, error) {
	maps := client.CoreV1().ConfigMaps(p.namespace)
	times := newFigures()
	made, err := createAll(ctx, maps, p, times)
	if err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := getSome(ctx, maps, p, made, times); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	whole, err := listWhole(ctx, maps, made, times)
	if err != nil {
		return nil, fmt.Errorf("whole list: %w", err)
	}
	pages, token, err := listPages(ctx, maps, made, times)
	if err != nil {
		return nil, fmt.Errorf("list in pages: %w", err)
	}
	events, err := changeUnderWatch(ctx, maps, p, whole, times)
	if err != nil {
		return nil, err
	}
	if p.expire {
		if err := awaitExpiry(ctx, maps, token); err != nil {
			return nil, err
		}
	}
	return &objectsResult{times.summaries(), pages, events, p.expire}, nil
}

func objectName(number int) string { return fmt.Sprintf("map-%06d", number) }

// createAll gives the resource version of each object by its name.
func createAll(ctx context.Context, maps typed.ConfigMapInterface, p plan, times *figures) (map[string]string, error) {
	var lock sync.Mutex
	made := map[string]string{}
	start := time.Now()
	err := inParallel(p.workers, p.objects, func(number int) error {
		begin := time.Now()
		object, err := maps.Create(ctx, configMap(objectName(number), 1, p.bytes), meta.CreateOptions{})
		if err != nil {
			return err
		}
		times.note("create", time.Since(begin))
		lock.Lock()
		defer lock.Unlock()
		made[object.Name] = object.ResourceVersion
		return nil
	})
	times.span("create", start)
	return made, err
}

// getSome reads every fifth object.
func getSome(ctx context.Context, maps typed.ConfigMapInterface, p plan, made map[string]string, times *figures) error {
	start := time.Now()
	defer times.span("get", start)
	return inParallel(p.workers, p.objects/5, func(number int) error {
		begin := time.Now()
		object, err := maps.Get(ctx, objectName(number*5), meta.GetOptions{})
		if err != nil {
			return err
		}
		times.note("get", time.Since(begin))
		return same(object, made)
	})
}

func same(object *core.ConfigMap, made map[string]string) error {
	if _, err := version(object); err != nil {
		return err
	}
	if object.ResourceVersion != made[object.Name] {
		return fmt.Errorf("%s is at resource version %s, and was made at %q",
			object.Name, object.ResourceVersion, made[object.Name])
	}
	return nil
}

// ours selects our objects in a namespace where the controllers have theirs; in this code and not on the
// server, whose lists with a selector take another way to the store.
func ours(items []core.ConfigMap) []*core.ConfigMap {
	var found []*core.ConfigMap
	for at := range items {
		if items[at].Labels["made-by"] == "kubeload" {
			found = append(found, &items[at])
		}
	}
	return found
}

func listWhole(ctx context.Context, maps typed.ConfigMapInterface, made map[string]string, times *figures) (*core.ConfigMapList, error) {
	const rounds = 5
	var list *core.ConfigMapList
	for range rounds {
		begin := time.Now()
		var err error
		if list, err = maps.List(ctx, meta.ListOptions{}); err != nil {
			return nil, err
		}
		times.note("list_whole", time.Since(begin))
		if err := allThere(ours(list.Items), made); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func allThere(items []*core.ConfigMap, made map[string]string) error {
	if len(items) != len(made) {
		return fmt.Errorf("it holds %d objects, and %d were made", len(items), len(made))
	}
	for at, object := range items {
		if at > 0 && items[at-1].Name >= object.Name {
			return fmt.Errorf("%s comes after %s", object.Name, items[at-1].Name)
		}
		if err := same(object, made); err != nil {
			return err
		}
	}
	return nil
}

// listPages gives the number of pages and the continuation behind the first one.
func listPages(ctx context.Context, maps typed.ConfigMapInterface, made map[string]string, times *figures) (int, string, error) {
	var items []*core.ConfigMap
	var firstToken, resourceVersion string
	options := meta.ListOptions{Limit: pageObjects}
	for pages := 1; ; pages++ {
		begin := time.Now()
		page, err := maps.List(ctx, options)
		if err != nil {
			return 0, "", err
		}
		times.note("list_page", time.Since(begin))
		items = append(items, ours(page.Items)...)
		if resourceVersion == "" {
			resourceVersion, firstToken = page.ResourceVersion, page.Continue
		}
		if page.ResourceVersion != resourceVersion {
			return 0, "", fmt.Errorf("page %d is at %s, the first one at %s", pages, page.ResourceVersion, resourceVersion)
		}
		if page.Continue == "" {
			return pages, firstToken, allThere(items, made)
		}
		options.Continue = page.Continue
	}
}

// owed is one event that must come once.
type owed struct {
	kind    watch.EventType
	version string // empty where the answer to the request does not tell it
	at      time.Time
}

// changeUnderWatch changes every even object and deletes every odd one, and sees each of it once, in order.
func changeUnderWatch(ctx context.Context, maps typed.ConfigMapInterface, p plan, from *core.ConfigMapList, times *figures) (int, error) {
	watcher, err := maps.Watch(ctx, meta.ListOptions{ResourceVersion: from.ResourceVersion})
	if err != nil {
		return 0, fmt.Errorf("watch: %w", err)
	}
	defer watcher.Stop()
	seen := make(chan watched, 1)
	go func() { seen <- collect(watcher, from.ResourceVersion, p.objects) }()

	var lock sync.Mutex
	expected := map[string]owed{}
	start := time.Now()
	err = inParallel(p.workers, p.objects, func(number int) error {
		name, begin := objectName(number), time.Now()
		event := owed{kind: watch.Deleted}
		if number%2 == 0 {
			object, err := maps.Update(ctx, configMap(name, 2, p.bytes), meta.UpdateOptions{})
			if err != nil {
				return fmt.Errorf("update: %w", err)
			}
			times.note("update", time.Since(begin))
			event = owed{kind: watch.Modified, version: object.ResourceVersion}
		} else {
			if err := maps.Delete(ctx, name, meta.DeleteOptions{}); err != nil {
				return fmt.Errorf("delete: %w", err)
			}
			times.note("delete", time.Since(begin))
		}
		event.at = time.Now()
		lock.Lock()
		defer lock.Unlock()
		expected[name] = event
		return nil
	})
	times.span("update", start)
	times.span("delete", start)
	if err != nil {
		return 0, err
	}
	// Behind this one nothing of the changes may come.
	if _, err := maps.Create(ctx, configMap(sentinel, 1, p.bytes), meta.CreateOptions{}); err != nil {
		return 0, err
	}
	result := <-seen
	if result.err != nil {
		return 0, fmt.Errorf("watch: %w", result.err)
	}
	return len(result.events), judge(result.events, expected, times)
}

const sentinel = "zz-last"

// happened is one event of our objects, as it came.
type happened struct {
	name    string
	kind    watch.EventType
	version string
	data    int
	at      time.Time
}

type watched struct {
	events []happened
	err    error
}

// collect takes events until the sentinel's, and checks that resource versions only rise.
func collect(watcher watch.Interface, from string, most int) watched {
	var result watched
	last, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return watched{err: err}
	}
	for {
		select {
		case event, open := <-watcher.ResultChan():
			if !open {
				return watched{err: fmt.Errorf("closed after %d events", len(result.events))}
			}
			object, isMap := event.Object.(*core.ConfigMap)
			if !isMap {
				return watched{err: fmt.Errorf("event %s with %+v", event.Type, event.Object)}
			}
			at, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
			if err != nil || at <= last {
				return watched{err: fmt.Errorf("event of %s at %q after %d", object.Name, object.ResourceVersion, last)}
			}
			last = at
			if object.Labels["made-by"] != "kubeload" {
				continue
			}
			if object.Name == sentinel {
				return result
			}
			number, err := version(object)
			if err != nil {
				return watched{err: err}
			}
			result.events = append(result.events,
				happened{object.Name, event.Type, object.ResourceVersion, number, time.Now()})
		case <-time.After(eventPatience):
			return watched{err: fmt.Errorf("no event for %v, %d of %d seen", eventPatience, len(result.events), most)}
		}
	}
}

func judge(events []happened, expected map[string]owed, times *figures) error {
	if len(events) != len(expected) {
		return fmt.Errorf("watch: %d events for %d changes", len(events), len(expected))
	}
	for _, event := range events {
		want, there := expected[event.name]
		if !there {
			return fmt.Errorf("watch: %s of %s came twice, or was never asked for", event.kind, event.name)
		}
		delete(expected, event.name)
		if event.kind != want.kind || want.version != "" && want.version != event.version {
			return fmt.Errorf("watch: %s of %s at %s, expected %s at %q",
				event.kind, event.name, event.version, want.kind, want.version)
		}
		if data := map[watch.EventType]int{watch.Modified: 2, watch.Deleted: 1}[event.kind]; data != event.data {
			return fmt.Errorf("watch: %s of %s carries version %d, expected %d", event.kind, event.name, event.data, data)
		}
		// An event may overtake the answer to its request.
		times.note("event_after_answer", max(event.at.Sub(want.at), 0))
	}
	return nil
}

// awaitExpiry asks for the second page again and again, until the store has forgotten its revision.
func awaitExpiry(ctx context.Context, maps typed.ConfigMapInterface, token string) error {
	if token == "" {
		return fmt.Errorf("expiry: the first page was the last one; use more than %d objects", pageObjects)
	}
	const patience = 60 * time.Second
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		_, err := maps.List(ctx, meta.ListOptions{Limit: pageObjects, Continue: token})
		if apierrors.IsResourceExpired(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("expiry: %w", err)
		}
	}
	return fmt.Errorf("expiry: the continuation still serves after %v; is there no compaction?", patience)
}
