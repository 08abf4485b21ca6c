package exposition

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"podd/api/usage"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

// host is one with a pod of one container, which has an odd name.
func host() *usage.Snapshot {
	at := time.UnixMilli(1_700_000_000_123)
	group := func(id string) usage.Group {
		return usage.Group{ID: id, Started: at.Add(-time.Minute), CPU: usage.CPU{Usage: 1500 * time.Millisecond, User: time.Second, System: 500 * time.Millisecond},
			Memory: usage.Memory{Usage: 1000, WorkingSet: 750, RSS: 500, Cache: 300, Faults: 7, Max: 2000}, Processes: 2, Threads: 3}
	}
	c := usage.Container{Group: group("/podd/kubepods/pod1/c1"), Name: "app", Image: `image"with\odd` + "\nname", ContainerID: "c1"}
	c.CPU.Periods, c.CPU.Throttled, c.CPU.ThrottledTime = 10, 5, time.Second
	c.Limits = usage.Limits{Shares: 512, Quota: 10000, Period: 100000, Tasks: 100}
	c.Memory.Limit = 1 << 20
	c.Devices = []usage.Device{{Major: 253, Name: "/dev/vda", ReadBytes: 4096, WriteBytes: 8192, Reads: 1, Writes: 2}}
	c.Root = usage.Disk{Known: true, Used: 100, FS: usage.FS{Size: 1e9, Inodes: 1000, InodesFree: 900}}
	c.Logs = usage.Disk{Known: true, Used: 10}
	sandbox := usage.Container{Group: group("/podd/kubepods/pod1/s0"), ContainerID: "s0"}
	stall := usage.Stall{Known: true, Some: usage.Pressure{Total: 2 * time.Second}, Full: usage.Pressure{Total: time.Second}}
	node := group("/")
	node.CPUStall = stall
	return &usage.Snapshot{At: at, Full: true,
		Node: usage.Node{Group: node, Cores: 2, PhysicalCores: 1, Sockets: 1, MemoryTotal: 1 << 30, Parents: []usage.Group{group("/podd/kubepods")},
			FS:         usage.FS{Device: "/dev/vda", Size: 1e9, Free: 4e8, Inodes: 1000, InodesFree: 900},
			Interfaces: []usage.Interface{{Name: "eth0", RxBytes: 1e16}}},
		Pods: []usage.Pod{{Group: group("/podd/kubepods/pod1"), Namespace: "default", Name: "a", UID: "1", Sandbox: &sandbox, Containers: []usage.Container{c},
			Interfaces: []usage.Interface{{Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}}}}}
}

func TestExpositions(t *testing.T) {
	machine := Machine{BootID: "boot", MachineID: "machine", SystemUUID: "uuid", Kernel: "6.1", OS: "an os", Version: "1"}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"resource.txt":       func(b *bytes.Buffer) error { return Resource(b, host()) },
		"resource-error.txt": func(b *bytes.Buffer) error { return Resource(b, nil) },
		"cadvisor.txt":       func(b *bytes.Buffer) error { return Cadvisor(b, host(), machine) },
		"cadvisor-error.txt": func(b *bytes.Buffer) error { return Cadvisor(b, nil, machine) },
		"probes.txt": func(b *bytes.Buffer) error {
			within := [len(usage.ProbeTimes)]uint64{0: 1, 3: 1}
			return Probes(b, []usage.Probe{
				{Namespace: "default", Pod: "a", UID: "1", Container: "app", Kind: "Liveness", Failed: 2},
				{Namespace: "default", Pod: "b", UID: "2", Container: "app", Kind: "Readiness", Succeeded: 3, Failed: 1, Took: 12500 * time.Millisecond, Within: within},
			})
		},
		"own.txt": func(b *bytes.Buffer) error {
			return Own(b, State{Version: "1", Node: "n", Pods: 1, Containers: map[string]int{"running": 2, "exited": 1}, Syncs: 3, Objects: 4, Watches: 5, Bytes: 6})
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := write(&out); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("is not what %s says:\n%s", file, out.String())
			}
			parser := expfmt.NewTextParser(model.LegacyValidation)
			families, err := parser.TextToMetricFamilies(bytes.NewReader(out.Bytes()))
			if err != nil || len(families) == 0 {
				t.Fatalf("%d families, %v", len(families), err)
			}
			for name, f := range families {
				for _, l := range f.Metric[len(f.Metric)-1].Label {
					if l.GetName() == "image" && l.GetValue() != "" && l.GetValue() != "pause" && l.GetValue() != host().Pods[0].Containers[0].Image {
						t.Errorf("%s: the image is %q", name, l.GetValue())
					}
				}
			}
		})
	}
}

// full is a client that goes away after n bytes.
type full struct{ n int }

var errFull = errors.New("full")

func (f *full) Write(b []byte) (int, error) {
	if f.n -= len(b); f.n < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestClientGoesAway(t *testing.T) {
	many := host()
	for range 200 {
		many.Pods = append(many.Pods, many.Pods[0])
	}
	if err := Cadvisor(&full{n: 100 << 10}, many, Machine{}); !errors.Is(err, errFull) {
		t.Errorf("error: %v", err)
	}
}
