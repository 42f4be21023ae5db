package main

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"sync"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// figures keeps how long requests of each kind took. Safe for many goroutines.
type figures struct {
	lock  sync.Mutex
	times map[string][]time.Duration
	spans map[string]time.Duration
}

func newFigures() *figures {
	return &figures{times: map[string][]time.Duration{}, spans: map[string]time.Duration{}}
}

func (f *figures) note(kind string, took time.Duration) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.times[kind] = append(f.times[kind], took)
}

// span keeps how long a whole step took.
func (f *figures) span(kind string, since time.Time) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.spans[kind] = time.Since(since)
}

// summary is one kind of request in numbers; all in milliseconds, but for the count and the rate.
type summary struct {
	Count     int     `json:"count"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	Max       float64 `json:"max_ms"`
	PerSecond float64 `json:"per_second,omitempty"`
}

func (f *figures) summaries() map[string]summary {
	f.lock.Lock()
	defer f.lock.Unlock()
	all := map[string]summary{}
	for kind, times := range f.times {
		sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
		at := func(part float64) float64 {
			return milliseconds(times[min(int(part*float64(len(times))), len(times)-1)])
		}
		one := summary{Count: len(times), P50: at(0.5), P99: at(0.99), Max: at(1)}
		if span := f.spans[kind]; span > 0 {
			one.PerSecond = float64(len(times)) / span.Seconds()
		}
		all[kind] = one
	}
	return all
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// inParallel calls one for each number below count from so many goroutines, and gives the first error.
func inParallel(workers, count int, one func(int) error) error {
	numbers := make(chan int)
	failures := make(chan error, workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for number := range numbers {
				if err := one(number); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	var failure error
	for number := 0; number < count && failure == nil; number++ {
		select {
		case numbers <- number:
		case failure = <-failures:
		}
	}
	close(numbers)
	group.Wait()
	if failure == nil {
		select {
		case failure = <-failures:
		default:
		}
	}
	return failure
}

// configMap is an object whose data names it and its version, so that a mixed-up answer shows.
func configMap(name string, version, bytes int) *core.ConfigMap {
	head := fmt.Sprintf("%s version %d ", name, version)
	return &core.ConfigMap{
		ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{"made-by": "kubeload"}},
		Data:       map[string]string{"text": head + filler(bytes-len(head))},
	}
}

// version of an object of ours, or an error when its data are not what configMap made.
func version(object *core.ConfigMap) (int, error) {
	var name string
	var number int
	text := object.Data["text"]
	if _, err := fmt.Sscanf(text, "%s version %d ", &name, &number); err != nil || name != object.Name {
		return 0, fmt.Errorf("%s holds foreign data %.60q", object.Name, text)
	}
	return number, nil
}

// filler is text that does not compress well, as real data do not. Its content has no meaning.
func filler(bytes int) string {
	var text strings.Builder
	for text.Len() < bytes {
		fmt.Fprintf(&text, "%016x", rand.Uint64())
	}
	return text.String()[:max(bytes, 0)]
}
