package containers

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testHost() Host {
	return Host{
		Seccomp: true, SwapLimit: true, MemoryCapacity: 1 << 30, MinOOMScore: -1000, Hostname: "node",
		Caps:    append(slices.Clone(defaultCaps), "CAP_SYS_ADMIN", "CAP_NET_ADMIN"),
		Devices: func() ([]specs.LinuxDevice, error) { return []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c"}}, nil },
		Profile: func(name string) ([]byte, error) {
			switch name {
			case "good.json":
				return []byte(`{"defaultAction":"SCMP_ACT_ERRNO"}`), nil
			case "empty.json":
				return nil, nil
			case "object.json":
				return []byte("{}"), nil
			}
			return nil, os.ErrNotExist
		},
	}
}

func testConfig() Config {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: "web", Namespace: "default", UID: "u1",
		Annotations: map[string]string{"org.systemd.property.ExecStart": "x"}, Labels: map[string]string{"l": "v"},
	}}
	pod.Spec.Containers = []v1.Container{{Name: "app"}}
	image := ocispec.Image{}
	image.Config = ocispec.ImageConfig{
		Env: []string{"PATH=/bin", "HOME", "=x", "A=image"}, Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"},
		Labels: map[string]string{"containerd.io/restart.loguri": "binary:///x"}, Volumes: map[string]struct{}{"/../../etc": {}},
	}
	return Config{
		ID: "c1", Pod: pod, Container: &pod.Spec.Containers[0], Key: "k",
		Image: Image{Name: "img", Config: image,
			Passwd: []byte("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\nhuge:x:4294967296:0::/:\n"),
			Group:  []byte("root:x:0:\napp:x:1001:\nwheel:x:1002:app,root\n")},
		Sandbox: Sandbox{ID: "s1", NetNS: "/run/netns/x", IPCNS: "/run/ns/ipc", UTSNS: "/run/ns/uts", CgroupPath: "/podd/kubepods/podu1", Hostname: "web"},
	}
}

func ptr[T any](v T) *T { return &v }

// TestSpecGolden keeps whole specs as files, one per kind of container. Seccomp is left out: it is containerd's.
func TestSpecGolden(t *testing.T) {
	for name, change := range map[string]func(*Config, *Host){
		"plain": func(*Config, *Host) {},
		"guaranteed": func(c *Config, _ *Host) {
			l := v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("64Mi")}
			c.Container.Resources = v1.ResourceRequirements{Requests: l, Limits: l}
			c.Mounts = []specs.Mount{
				{Destination: "/a/b/c", Source: "/src/1", Type: "bind", Options: []string{"rbind", "ro", "rslave"}},
				{Destination: "/a", Source: "/src/2", Type: "bind", Options: []string{"rbind", "rw"}},
				{Destination: "/dev/mqueue", Source: "/src/3", Type: "bind", Options: []string{"rbind"}},
			}
		},
		"hardened-v2": func(c *Config, h *Host) {
			h.CgroupV2, h.MinOOMScore = true, 0
			c.Container.Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
			c.Container.Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse("32Mi")}
			c.Pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr(int64(1000)), FSGroup: ptr(int64(2000)), SupplementalGroups: []int64{3000}}
			c.Container.SecurityContext = &v1.SecurityContext{
				AllowPrivilegeEscalation: ptr(false), ReadOnlyRootFilesystem: ptr(true), RunAsNonRoot: ptr(true),
				Capabilities: &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_BIND_SERVICE"}},
			}
		},
		"huge-pages": func(c *Config, h *Host) {
			h.HugePages = []string{"2MB", "32MB", "1GB"}
			c.Pod.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{"hugepages-2Mi": resource.MustParse("8Mi"), "hugepages-1Gi": resource.MustParse("2Gi")}}
			c.Container.Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), "hugepages-2Mi": resource.MustParse("4Mi"), "hugepages-3Mi": resource.MustParse("3Mi")}
		},
		"own-users": func(c *Config, _ *Host) {
			c.Pod.Spec.HostUsers = ptr(false)
			c.Sandbox.UserNS, c.Sandbox.FirstID = "/ns/user", 0x70000000
			c.Container.SecurityContext = &v1.SecurityContext{RunAsUser: ptr(int64(65535)), ProcMount: ptr(v1.UnmaskedProcMount)}
		},
		"privileged-host": func(c *Config, _ *Host) {
			c.Pod.Spec.HostPID, c.Pod.Spec.HostNetwork = true, true
			c.Sandbox.NetNS, c.Sandbox.UTSNS, c.Sandbox.IPCNS = "", "", ""
			c.Container.SecurityContext = &v1.SecurityContext{Privileged: ptr(true)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, h := testConfig(), testHost()
			change(&c, &h)
			spec, user, err := Spec(c, h)
			if err != nil {
				t.Fatal(err)
			}
			if privileged := name == "privileged-host"; (spec.Linux.Seccomp == nil) != privileged {
				t.Errorf("seccomp: %v", spec.Linux.Seccomp)
			}
			spec.Linux.Seccomp = nil
			got, err := json.MarshalIndent(map[string]any{"spec": spec, "user": user}, "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", "spec-"+name+".json"), append(got, '\n'))
			if bytes.Contains(got, []byte("loguri")) || bytes.Contains(got, []byte("systemd.property")) {
				t.Error("labels or annotations in the spec")
			}
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; got:\n%s", file, got)
	}
}

func TestUser(t *testing.T) {
	tests := []struct {
		image   string
		pod     *v1.PodSecurityContext
		own     *v1.SecurityContext
		want    string // uid:gid groups, or a part of the error
		refused bool
	}{
		{image: "", want: "0:0 [0 1002]"},
		{image: "app", want: "1000:1001 [1001 1002]"},
		{image: "1000", want: "1000:1001 [1001 1002]"},
		{image: "1000:5", want: "1000:5 [5 1002]"},
		{image: "app:wheel", want: "1000:1002 [1002]"},
		{image: "77", want: "77:0 [0]"},
		{image: "nobody", want: "not in the image's /etc/passwd", refused: true},
		{image: "app:nogroup", want: "not in the image's /etc/group", refused: true},
		{image: "2147483648", want: "must be between", refused: true},
		{image: "4294967296", want: "must be between", refused: true},
		{image: "99999999999999999999", want: "must be between", refused: true},
		{image: "-1", want: "not in the image", refused: true},
		{image: "+0", want: "not in the image", refused: true},
		{image: "0x0", want: "not in the image", refused: true},
		{image: "huge", want: "out of range", refused: true},
		{own: &v1.SecurityContext{RunAsUser: ptr(int64(2147483648))}, want: "must be between", refused: true},
		{own: &v1.SecurityContext{RunAsUser: ptr(int64(-1))}, want: "must be between", refused: true},
		{image: "77", own: &v1.SecurityContext{RunAsUser: ptr(int64(1000))}, want: "1000:1001 [1001 1002]"},
		{image: "app:wheel", own: &v1.SecurityContext{RunAsUser: ptr(int64(5))}, want: "5:0 [0]"},
		{pod: &v1.PodSecurityContext{RunAsUser: ptr(int64(5)), RunAsGroup: ptr(int64(6))}, own: &v1.SecurityContext{RunAsUser: ptr(int64(7))}, want: "7:6 [6]"},
		{pod: &v1.PodSecurityContext{RunAsGroup: ptr(int64(6))}, image: "app", want: "1000:6 [6 1002]"},
		{pod: &v1.PodSecurityContext{SupplementalGroups: []int64{1002, 9}, FSGroup: ptr(int64(10))}, image: "app", want: "1000:1001 [1001 1002 9 10]"},
		{pod: &v1.PodSecurityContext{SupplementalGroupsPolicy: ptr(v1.SupplementalGroupsPolicyStrict)}, image: "app", want: "1000:1001 [1001]"},
		{pod: &v1.PodSecurityContext{SupplementalGroups: []int64{-1}}, want: "must be between", refused: true},
		{own: &v1.SecurityContext{RunAsNonRoot: ptr(true)}, want: "will run as root", refused: true},
		{own: &v1.SecurityContext{RunAsNonRoot: ptr(true)}, image: "0:0", want: "will run as root", refused: true},
		{own: &v1.SecurityContext{RunAsNonRoot: ptr(true)}, image: "app", want: "not numeric", refused: true},
		{own: &v1.SecurityContext{RunAsNonRoot: ptr(true)}, image: "1000", want: "1000:1001 [1001 1002]"},
		{own: &v1.SecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(0))}, want: "runAsUser is 0", refused: true},
		{own: &v1.SecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(3))}, want: "3:0 [0]"},
		{pod: &v1.PodSecurityContext{RunAsNonRoot: ptr(true)}, own: &v1.SecurityContext{RunAsNonRoot: ptr(false)}, want: "0:0 [0 1002]"},
	}
	for _, tt := range tests {
		c := testConfig()
		c.Image.Config.Config.User, c.Pod.Spec.SecurityContext, c.Container.SecurityContext = tt.image, tt.pod, tt.own
		u, err := resolveUser(c)
		if tt.refused {
			var ce *ConfigError
			if !errors.As(err, &ce) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("image user %q, pod %v, container %v: error %v, want one with %q", tt.image, tt.pod, tt.own, err, tt.want)
			}
			continue
		}
		got := strings.Trim(strings.Join(strings.Fields(strings.NewReplacer("{", "", "}", "").Replace(userText(u))), " "), " ")
		if err != nil || got != tt.want {
			t.Errorf("image user %q, pod %v, container %v: got %q %v, want %q", tt.image, tt.pod, tt.own, got, err, tt.want)
		}
	}
}

func userText(u specs.User) string {
	groups, _ := json.Marshal(u.AdditionalGids)
	id, _ := json.Marshal([]uint32{u.UID, u.GID})
	return strings.NewReplacer("[", "", "]", "", ",", ":").Replace(string(id)) + " " + strings.ReplaceAll(string(groups), ",", " ")
}

func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"fd":             {func(c *Config) { c.Container.WorkingDir = "/proc/self/fd/7" }, "below /proc"},
		"fd of image":    {func(c *Config) { c.Image.Config.Config.WorkingDir = "/x/../proc/1/cwd" }, "below /proc"},
		"relative":       {func(c *Config) { c.Container.WorkingDir = "x" }, "absolute"},
		"no command":     {func(c *Config) { c.Image.Config.Config.Entrypoint, c.Image.Config.Config.Cmd = nil, nil }, "no command"},
		"mount on proc":  {func(c *Config) { c.Mounts = []specs.Mount{{Destination: "/proc/sys"}} }, "not allowed"},
		"mount on root":  {func(c *Config) { c.Mounts = []specs.Mount{{Destination: "/x/.."}} }, "not allowed"},
		"relative mount": {func(c *Config) { c.Mounts = []specs.Mount{{Destination: "x"}} }, "absolute"},
		"long command":   {func(c *Config) { c.Container.Command = []string{strings.Repeat("x", 4096)} }, "is 4096 bytes"},
		"long directory": {func(c *Config) { c.Container.WorkingDir = "/" + strings.Repeat("x", 4095) }, "is 4096 bytes"},
		"long mount": {func(c *Config) {
			c.Mounts = []specs.Mount{{Destination: "/" + strings.Repeat("x", 4095)}}
		}, "is 4096 bytes"},
		"long source": {func(c *Config) {
			c.Mounts = []specs.Mount{{Destination: "/x", Source: "/" + strings.Repeat("x", 4095)}}
		}, "is 4096 bytes"},
		"capability": {func(c *Config) {
			c.Container.SecurityContext = &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"SYS_RESOURCE"}}}
		}, "SYS_RESOURCE"},
		"profile absent": {localhost("none.json"), "none.json"},
		"profile empty":  {localhost("empty.json"), "empty.json"},
		"profile void":   {localhost("object.json"), "no defaultAction"},
		"profile name":   {localhost(""), "names no file"},
	} {
		c := testConfig()
		tt.change(&c)
		_, _, err := Spec(c, testHost())
		var ce *ConfigError
		if !errors.As(err, &ce) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tt.want)
		}
	}
	c := testConfig()
	localhost("good.json")(&c)
	if spec, _, err := Spec(c, testHost()); err != nil || spec.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Errorf("good profile: %v", err)
	}
}

func localhost(name string) func(*Config) {
	return func(c *Config) {
		c.Container.SecurityContext = &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}}
	}
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct{ command, args, want []string }{
		{nil, nil, []string{"/entry", "cmd"}},
		{nil, []string{"x"}, []string{"/entry", "x"}},
		{[]string{"sh"}, nil, []string{"sh"}},
		{[]string{"sh", "$(A)"}, []string{"$$(A)", "$(NO)", "$(B)"}, []string{"sh", "own", "$(A)", "$(NO)", "own-own"}},
	} {
		c := testConfig()
		c.Container.Command, c.Container.Args = tt.command, tt.args
		c.Env = []v1.EnvVar{{Name: "A", Value: "own"}, {Name: "B", Value: "own-own"}}
		spec, _, err := Spec(c, testHost())
		if err != nil || !slices.Equal(spec.Process.Args, tt.want) {
			t.Errorf("%v %v: got %q %v, want %q", tt.command, tt.args, spec.Process.Args, err, tt.want)
		}
		if env := []string{"PATH=/bin", "HOSTNAME=web", "A=own", "B=own-own"}; !slices.Equal(spec.Process.Env, env) {
			t.Errorf("env: %q, want %q", spec.Process.Env, env)
		}
	}
}

func TestStopSignal(t *testing.T) {
	for in, want := range map[string]string{
		"": "SIGTERM", "SIGQUIT": "SIGQUIT", "quit": "SIGQUIT", "9": "SIGKILL", "0": "SIGTERM", "65": "SIGTERM", "SIGRTMIN+3": "37",
		"SIGTERM; rm -rf": "SIGTERM", strings.Repeat("A", 4096): "SIGTERM",
	} {
		if got := stopSignal(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestReadIn(t *testing.T) {
	root := t.TempDir()
	for _, err := range []error{
		os.Mkdir(filepath.Join(root, "etc"), 0o755),
		os.WriteFile(filepath.Join(root, "etc", "real"), []byte("inside"), 0o644),
		os.Symlink("/etc/real", filepath.Join(root, "etc", "passwd")),
		os.Symlink("../../../../../../etc/hostname", filepath.Join(root, "etc", "group")),
		os.WriteFile(filepath.Join(root, "big"), nil, 0o644),
		os.Truncate(filepath.Join(root, "big"), 5<<30),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if b, err := readIn(root, "etc/passwd"); err != nil || string(b) != "inside" {
		t.Errorf("a link is followed inside: %q %v", b, err)
	}
	if b, err := readIn(root, "etc/group"); err != nil || b != nil {
		t.Errorf("a link does not lead out: %q %v", b, err)
	}
	if _, err := readIn(root, "big"); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("too large: %v", err)
	}
	if _, err := readIn(root, "etc"); err == nil {
		t.Error("a directory: no error")
	}
}

func TestReadProfile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readProfile(dir, "p"); err != nil || string(b) != "x" {
		t.Errorf("%q %v", b, err)
	}
	for _, name := range []string{"../" + filepath.Base(dir) + "/p", "/etc/passwd", "none", "."} {
		if _, err := readProfile(dir, name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestOOMScore has upstream's numbers (pkg/kubelet/qos/policy.go), of a host with 1 GiB.
func TestOOMScore(t *testing.T) {
	memory := func(size string) v1.ResourceList { return v1.ResourceList{v1.ResourceMemory: resource.MustParse(size)} }
	all := v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("64Mi")}
	for name, test := range map[string]struct {
		requests, limits v1.ResourceList
		class            string
		least, want      int
	}{
		"best effort":                 {least: -1000, want: 1000},
		"burstable":                   {requests: memory("256Mi"), least: -1000, want: 750},
		"burstable that asks for all": {requests: memory("1Gi"), least: -1000, want: 3},
		"guaranteed":                  {requests: all, limits: all, least: -1000, want: -997},
		"critical for the node":       {class: "system-node-critical", least: -1000, want: -997},
		"critical elsewhere":          {class: "system-cluster-critical", least: -1000, want: 1000},
		"not allowed to go lower":     {class: "system-node-critical", least: 0, want: 0},
	} {
		c, h := testConfig(), testHost()
		c.Container.Resources = v1.ResourceRequirements{Requests: test.requests, Limits: test.limits}
		c.Pod.Spec.PriorityClassName, h.MinOOMScore = test.class, test.least
		if got := OOMScore(c.Pod, c.Container, h); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// What a pod as a whole requests beyond its containers counts for each of them in equal parts, and its limits are those of
// a container that has none.
func TestResourcesOfThePod(t *testing.T) {
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	own := v1.Container{Name: "own", Resources: v1.ResourceRequirements{Requests: list("100m", "256Mi"), Limits: list("200m", "256Mi")}}
	side := v1.Container{Name: "side", RestartPolicy: ptr(v1.ContainerRestartPolicyAlways)}
	pod := &v1.Pod{Spec: v1.PodSpec{InitContainers: []v1.Container{side, {Name: "init"}}, Containers: []v1.Container{own, {Name: "none"}},
		Resources: &v1.ResourceRequirements{Requests: list("500m", "512Mi"), Limits: list("1", "768Mi")}}}
	for _, c := range []struct {
		of            *v1.Container
		score         int
		shares        uint64
		quota, memory int64
	}{
		{&pod.Spec.Containers[0], 688, 102, 20000, 256 << 20}, // (512 - 256) / 4 more than its own
		{&pod.Spec.Containers[1], 938, 1024, 100000, 768 << 20},
		{&pod.Spec.InitContainers[0], 938, 1024, 100000, 768 << 20},
		{&pod.Spec.InitContainers[1], 938, 1024, 100000, 768 << 20},
	} {
		r := resources(pod, c.of, testHost())
		if score := OOMScore(pod, c.of, testHost()); score != c.score || *r.CPU.Shares != c.shares || *r.CPU.Quota != c.quota || *r.Memory.Limit != c.memory {
			t.Errorf("%s: score %d, %d shares, quota %d, memory %d; want %+v", c.of.Name, score, *r.CPU.Shares, *r.CPU.Quota, *r.Memory.Limit, c)
		}
	}
}

// A sidecar is not killed before the regular containers that it serves.
func TestOOMScoreOfSidecar(t *testing.T) {
	with := func(name, memory string) v1.Container {
		c := v1.Container{Name: name}
		if memory != "" {
			c.Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
		}
		return c
	}
	side, once := with("side", ""), with("once", "")
	side.RestartPolicy = ptr(v1.ContainerRestartPolicyAlways)
	pod := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{once, side}, Containers: []v1.Container{with("big", "512Mi"), with("small", "256Mi")},
	}}
	for i, want := range []int{999, 750} {
		if got := OOMScore(pod, &pod.Spec.InitContainers[i], testHost()); got != want {
			t.Errorf("%s: %d, want %d", pod.Spec.InitContainers[i].Name, got, want)
		}
	}
	pod.Spec.InitContainers[1].Resources = pod.Spec.Containers[0].Resources
	if got := OOMScore(pod, &pod.Spec.InitContainers[1], testHost()); got != 500 {
		t.Errorf("a bigger sidecar: %d, want 500", got)
	}
}
