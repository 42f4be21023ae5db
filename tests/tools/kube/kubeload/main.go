// Kubeload puts a load on a Kubernetes API server, and checks that what the server acknowledged is what it
// serves afterwards. It knows nothing of the store below.
//
//	kubeload pki     DIR PORT       certificates, keys and admin.kubeconfig for an API server on 127.0.0.1
//	kubeload ready   KUBECONFIG     returns when the server says that it is ready
//	kubeload objects KUBECONFIG ... create, read, list, watch, change, delete; every answer is checked
//	kubeload writes  KUBECONFIG ... writes until standard input ends, then looks for each acknowledged one
//
// The result of the last two is one line of JSON on standard output; what was wrong, in words, on standard
// error, with exit code 1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kubeload:", err)
		os.Exit(1)
	}
}

func run(words []string) error {
	if len(words) < 2 {
		return errors.New("expected pki, ready, objects or writes, and its first argument")
	}
	switch command, rest := words[0], words[2:]; command {
	case "pki":
		if len(rest) != 1 {
			return errors.New("expected pki DIR PORT")
		}
		return writePKI(words[1], rest[0])
	case "ready":
		return waitReady(words[1])
	case "objects", "writes":
		return load(command, words[1], rest)
	default:
		return fmt.Errorf("unknown word %q, expected pki, ready, objects or writes", command)
	}
}

// plan is what a load is to be.
type plan struct {
	namespace string
	objects   int
	bytes     int
	workers   int
	expire    bool
}

func load(command, kubeconfig string, words []string) error {
	var p plan
	flags := flag.NewFlagSet(command, flag.ContinueOnError)
	flags.StringVar(&p.namespace, "namespace", "default", "where the ConfigMaps are made; it must exist")
	flags.IntVar(&p.objects, "objects", 1000, "how many ConfigMaps")
	flags.IntVar(&p.bytes, "bytes", 1024, "bytes of data in each")
	flags.IntVar(&p.workers, "workers", 16, "requests at the same time")
	flags.BoolVar(&p.expire, "expire", false, "wait until a compaction makes a list's continuation expire")
	if err := flags.Parse(words); err != nil {
		return err
	}
	client, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	var result any
	if command == "objects" {
		result, err = objects(context.Background(), client, p)
	} else {
		result, err = writes(context.Background(), client, p)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

// connect makes a client without a limit of its own: the server is what we measure.
func connect(kubeconfig string) (*kubernetes.Clientset, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = "application/vnd.kubernetes.protobuf"
	return kubernetes.NewForConfig(config)
}

func waitReady(kubeconfig string) error {
	const patience = 90 * time.Second
	client, err := connect(kubeconfig)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server is not ready after %v: %w", patience, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
