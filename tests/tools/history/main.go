// historycheck reads a history of operations on registers, one JSON object a line, and says
// whether some order of them explains every answer: linearizability, checked by Porcupine, which
// shares no code with the store.
//
// An operation without an answer ("outcome": "unknown") may have happened at any time after its
// call, or never. Keys are independent registers.
//
//	historycheck FILE
//
// Exit code 0: linearizable. 1: not; the keys are named. 2: the history cannot be read or judged.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

type operation struct {
	Client  int    `json:"client"`
	Key     string `json:"key"`
	Kind    string `json:"kind"`    // put, get, swap, delete
	Value   string `json:"value"`   // written, or read
	Expect  string `json:"expect"`  // swap: the value that it asks for
	Found   bool   `json:"found"`   // get: the key was there; swap: it was swapped
	Outcome string `json:"outcome"` // ok, unknown
	Call    int64  `json:"call_ns"`
	Return  int64  `json:"return_ns"`
}

// state of a register: "" is absent, values are never empty.
var register = porcupine.Model{
	Init: func() interface{} { return "" },
	Step: func(state, input, output interface{}) (bool, interface{}) {
		now := state.(string)
		op := input.(operation)
		known := output.(operation).Outcome == "ok"
		switch op.Kind {
		case "get":
			if !known {
				return true, now
			}
			if op.Found {
				return now == op.Value, now
			}
			return now == "", now
		case "put":
			return true, op.Value
		case "delete":
			return true, ""
		case "swap":
			matches := now == op.Expect
			if known && matches != op.Found {
				return false, now
			}
			if matches {
				return true, op.Value
			}
			return true, now
		}
		return false, now
	},
	Equal: func(a, b interface{}) bool { return a == b },
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: historycheck FILE")
		os.Exit(2)
	}
	byKey, total, err := read(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	keys := make([]string, 0, len(byKey))
	for key := range byKey {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	bad, undecided := 0, 0
	for _, key := range keys {
		switch porcupine.CheckOperationsTimeout(register, byKey[key], 20*time.Second) {
		case porcupine.Illegal:
			bad++
			fmt.Printf("key %s: no order of its %d operations explains the answers\n", key, len(byKey[key]))
			for _, op := range byKey[key] {
				line, _ := json.Marshal(op.Input)
				fmt.Printf("  %s\n", line)
			}
		case porcupine.Unknown:
			undecided++
			fmt.Printf("key %s: not decided in time over %d operations\n", key, len(byKey[key]))
		}
	}
	fmt.Printf("%d operations on %d keys: %d not linearizable, %d not decided\n", total, len(keys), bad, undecided)
	switch {
	case bad > 0:
		os.Exit(1)
	case undecided > 0 || total == 0:
		os.Exit(2)
	}
}

func read(path string) (map[string][]porcupine.Operation, int, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	byKey := map[string][]porcupine.Operation{}
	total := 0
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 1<<20), 1<<20)
	for lines.Scan() {
		var op operation
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", total+1, err)
		}
		end := op.Return
		if op.Outcome != "ok" {
			if op.Kind == "get" {
				continue // it changed nothing and said nothing
			}
			end = int64(1) << 62
		}
		byKey[op.Key] = append(byKey[op.Key], porcupine.Operation{
			ClientId: op.Client, Input: op, Output: op, Call: op.Call, Return: end,
		})
		total++
	}
	return byKey, total, lines.Err()
}
