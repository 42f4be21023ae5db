// The first process of a Pod's sandbox: it holds the Pod's namespaces open, and does nothing else.
//
// Kubernetes' own is a C program, which would ask for a C compiler that links statically. In a Pod whose
// containers share one process namespace it is also the parent of orphans, so it collects them.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
