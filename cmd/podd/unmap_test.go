package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestUnmap(t *testing.T) {
	before := fileMemory(t)
	unmap()
	if after := fileMemory(t); after >= before {
		t.Errorf("%d kB of the program's file are mapped, %d before", after, before)
	}
}

func fileMemory(t *testing.T) (kB int) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if n, _ := fmt.Sscanf(line, "RssFile: %d", &kB); n == 1 {
			return kB
		}
	}
	t.Fatal("no RssFile")
	return 0
}
