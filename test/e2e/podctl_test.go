//go:build host

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/user"
	"strconv"

	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"

	"podd/test/harness"
)

// testPodctl: the verbs, what they print, and what they say when something is wrong.
func testPodctl(t *testing.T, s *suite) {
	for name, test := range map[string]func(*testing.T, *suite){
		"apply":       testApply,
		"apply-many":  testApplyMany,
		"get":         testGet,
		"get-watch":   testGetWatch,
		"describe":    testDescribe,
		"delete":      testDelete,
		"version":     testVersion,
		"completion":  testCompletion,
		"hints":       testHints,
		"permissions": testSocketPermissions,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
	for name, test := range podctlVerbs {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, s) })
	}
}

// Apply makes a pod, leaves one alone that is as it should be, and changes what may be changed.
func testApply(t *testing.T, s *suite) {
	p := sleeper("apply")
	p.Meta = "labels: {a: '1'}"
	q := p
	q.Meta = "labels: {a: '2'}\nannotations: {example.com/x: set}"
	for _, c := range []struct {
		pod  pod
		want string
	}{
		{p, "pod/apply created\n"}, {p, "pod/apply unchanged\n"}, {q, "pod/apply configured\n"}, {q, "pod/apply unchanged\n"}, {p, "pod/apply configured\n"},
	} {
		if got := s.podctlApply(t, c.pod); got != c.want {
			t.Errorf("podctl apply: %q, want %q", got, c.want)
		}
	}
	pod := s.until(t, p.Name, "ready", ready)
	if pod.Labels["a"] != "1" || pod.Annotations["example.com/x"] != "" || app(pod).RestartCount != 0 {
		t.Errorf("labels %v, annotations %v, restarts %d", pod.Labels, pod.Annotations, app(pod).RestartCount)
	}
	p.Container = "env: [{name: A, value: b}]"
	if got := s.refused(t, p.String(), "apply", "-f", "-"); !strings.HasPrefix(got, "-:") || !strings.Contains(got, "pod updates may not change fields other than") {
		t.Errorf("podctl apply of a change that may not be: %q", got)
	}
	if got, _, code := s.PodctlInput(strings.NewReader(sleeper("apply-dry").String()), "apply", "-f", "-", "--dry-run=server"); code != 0 || got != "pod/apply-dry created (server dry run)\n" {
		t.Errorf("podctl apply --dry-run=server: exit %d, %q", code, got)
	}
	if _, _, code := s.Podctl("get", "pod", "apply-dry"); code == 0 {
		t.Error("a dry run made a pod")
	}
}

// Where manifests come from: files, directories, stdin, a URL; several of them; several documents in each.
func testApplyMany(t *testing.T, s *suite) {
	dir := t.TempDir()
	put := func(name string, pods ...string) string {
		var docs []string
		for _, p := range pods {
			docs = append(docs, sleeper("many-"+p).String())
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Join(docs, "---\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one, two := put("one.yaml", "a"), put("two.yaml", "b", "c")
	put("dir/1.yaml", "d")
	put("dir/2.yml", "e")
	put("dir/deep/3.yaml", "f")
	put("dir/notes.txt", "never")
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer web.Close()
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": []any{
		map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "many-l"},
			"spec": map[string]any{"containers": []any{map[string]any{"name": "app", "image": busybox, "command": []string{"sleep", "1000"}}}, "terminationGracePeriodSeconds": 1}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		in   string
		want string
	}{
		{[]string{"-f", one}, "", "a"},
		{[]string{"-f", one, "-f", two}, "", "a b c"},
		{[]string{"-f", one + "," + two}, "", "a b c"},
		{[]string{"-f", dir + "/dir"}, "", "d e"},
		{[]string{"-R", "-f", dir + "/dir"}, "", "d e f"},
		{[]string{"-f", dir + "/*.yaml"}, "", "a b c"},
		{[]string{"-f", web.URL + "/two.yaml"}, "", "b c"},
		{[]string{"-f", "-"}, sleeper("many-s").String(), "s"},
		{[]string{"-f", "-"}, string(list), "l"},
		{[]string{"-f", "-"}, "---\n# nothing\n---\n" + sleeper("many-t").String() + "---\n", "t"},
	} {
		out, errs, code := s.PodctlInput(strings.NewReader(c.in), append([]string{"apply"}, c.args...)...)
		got := regexp.MustCompile(`pod/many-(\w+) (created|unchanged)\n`).ReplaceAllString(out, "$1 ")
		if code != 0 || strings.TrimSpace(got) != c.want {
			t.Errorf("podctl apply %v: exit %d, %q, %q; want %s", c.args, code, out, errs, c.want)
		}
	}
	for _, c := range []struct{ arg, want string }{
		{dir + "/no.yaml", "no such file"},
		{dir + "/empty", "no .yaml"},
		{web.URL + "/no.yaml", "404"},
		{"http://192.0.2.1/pod.yaml", "use https"},
	} {
		if err := os.MkdirAll(dir+"/empty", 0o755); err != nil {
			t.Fatal(err)
		}
		if got := s.refused(t, "", "apply", "-f", c.arg); !strings.Contains(got, c.arg) || !strings.Contains(got, c.want) {
			t.Errorf("podctl apply -f %s: %q, want %q", c.arg, got, c.want)
		}
	}
	// One bad document: nothing of all is applied.
	bad := sleeper("many-x").String() + "---\n" + strings.Replace(sleeper("many-y").String(), "image:", "imagee:", 1)
	if got := s.refused(t, bad, "apply", "-f", "-"); !hasLine(got, "-:", "imagee", `"image"`) || !strings.Contains(got, "nothing was applied") {
		t.Errorf("podctl apply of a good and a bad document: %q", got)
	}
	if _, _, code := s.Podctl("get", "pod", "many-x"); code == 0 {
		t.Error("the good document beside a bad one was applied")
	}
}

// The shapes that get has.
func testGet(t *testing.T, s *suite) {
	p := sleeper("get")
	p.Meta = "labels: {shape: 'yes'}"
	pod := s.running(t, p)
	words := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	lines := strings.Split(strings.TrimSpace(s.must(t, "get", "pods", "-l", "shape=yes")), "\n")
	if words(lines[0]) != "NAME READY STATUS RESTARTS AGE" || len(lines) != 2 || !strings.HasPrefix(words(lines[1]), "get 1/1 Running 0 ") {
		t.Errorf("podctl get pods:\n%s", strings.Join(lines, "\n"))
	}
	wide := strings.Split(strings.TrimSpace(s.must(t, "get", "po", "get", "-o", "wide")), "\n")
	if words(wide[0]) != "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES" || !strings.Contains(words(wide[1]), " "+pod.Status.PodIP+" "+s.NodeName+" ") {
		t.Errorf("podctl get -o wide:\n%s", strings.Join(wide, "\n"))
	}
	if got := s.must(t, "get", "pods", "-l", "shape=yes", "-o", "name"); got != "pod/get\n" {
		t.Errorf("podctl get -o name: %q", got)
	}
	var one v1.Pod
	if err := json.Unmarshal([]byte(s.must(t, "get", "pod", "get", "-o", "json")), &one); err != nil || one.Kind != "Pod" || one.UID != pod.UID {
		t.Errorf("podctl get -o json: %v, %s %s", err, one.Kind, one.UID)
	}
	if got := s.must(t, "get", "pod", "get", "-o", "yaml"); !strings.HasPrefix(got, "apiVersion: v1\nkind: Pod\n") || !strings.Contains(got, "\n  phase: Running\n") {
		t.Errorf("podctl get -o yaml: %.200s", got)
	}
	if got := s.must(t, "get", "pod", "get", "-o", "jsonpath={.status.podIP}"); got != pod.Status.PodIP {
		t.Errorf("podctl get -o jsonpath: %q", got)
	}
	if got := s.must(t, "get", "pods", "-A", "--field-selector=metadata.name=get", "--no-headers"); !strings.HasPrefix(words(got), "default get 1/1") {
		t.Errorf("podctl get -A: %q", got)
	}
	if got := s.must(t, "get", "nodes"); !strings.Contains(words(got), s.NodeName+" Ready") {
		t.Errorf("podctl get nodes: %q", got)
	}
	// What -o yaml shows can be applied again.
	saved := s.must(t, "get", "pod", "get", "-o", "yaml")
	if out, errs, code := s.PodctlInput(strings.NewReader(saved), "apply", "-f", "-"); code != 0 || strings.Contains(out, "created") {
		t.Errorf("podctl apply of what get -o yaml printed: exit %d, %q, %q", code, out, errs)
	}
	if out, errs, code := s.Podctl("get", "pods", "-n", "kube-public"); code != 0 || out != "" || errs != "No resources found in kube-public namespace.\n" {
		t.Errorf("podctl get of nothing: exit %d, %q, %q", code, out, errs)
	}
	for _, c := range []struct{ args, want string }{
		{"get pod nobody", `Error from server (NotFound): pods "nobody" not found`},
		{"get deployments", `the server doesn't have a resource type "deployments"`},
		{"get pods -o nope", `unable to match a printer`},
	} {
		if got := s.refused(t, "", strings.Fields(c.args)...); !strings.Contains(got, c.want) {
			t.Errorf("podctl %s: %q, want %q", c.args, got, c.want)
		}
	}
}

// With -w get goes on and shows each change.
func testGetWatch(t *testing.T, s *suite) {
	cmd := exec.Command(filepath.Join(harness.Built(t), "podctl"), "get", "pods", "-w", "--field-selector=metadata.name=get-watch")
	cmd.Env = append(os.Environ(), "PODD_SOCKET="+s.Socket)
	var out synced
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	dir := t.TempDir()
	s.apply(t, hostDir(pod{Name: "get-watch", Script: "until [ -e /host/shown ]; do sleep 0.1; done"}, dir))
	eventually(t, func() error {
		var seen []string
		for line := range strings.Lines(out.String()) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "get-watch" && (len(seen) == 0 || seen[len(seen)-1] != f[2]) {
				seen = append(seen, f[2])
			}
		}
		got := strings.Join(seen, " ")
		if strings.HasSuffix(got, "Running") { // only now, as the watch may begin a moment later than the pod
			must(t, os.WriteFile(filepath.Join(dir, "shown"), nil, 0o600))
		}
		if !strings.HasSuffix(got, "Running Completed") || !strings.HasSuffix("Pending ContainerCreating Running Completed", got) {
			return fmt.Errorf("podctl get -w shows %q", got)
		}
		return nil
	})
}

func testDescribe(t *testing.T, s *suite) {
	p := sleeper("describe")
	p.Spec = "volumes: [{name: v, emptyDir: {}}]"
	p.Container = "volumeMounts: [{name: v, mountPath: /v}]\nenv: [{name: A, value: b}]\nresources: {limits: {memory: 64Mi}}"
	pod := s.running(t, p)
	s.event(t, p.Name, "Started")
	got := s.must(t, "describe", "pod", p.Name)
	for _, want := range []string{`Name:\s+describe`, `Namespace:\s+default`, `Node:\s+` + s.NodeName + "/", `Status:\s+Running`, `IP:\s+` + pod.Status.PodIP,
		`app:\n\s+Container ID:\s+containerd://`, `Image:\s+busybox:e2e`, `State:\s+Running`, `memory:\s+64Mi`, `A:\s+b`, `/v from v \(rw\)`,
		`Conditions:`, `Ready\s+True`, `EmptyDir`, `QoS Class:\s+Burstable`, `Events:`, `Normal\s+Started.*Container started`} {
		if !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("podctl describe has no %q:\n%s", want, got)
		}
	}
	if node := s.must(t, "describe", "node", s.NodeName); !strings.Contains(node, "containerd://") || !strings.Contains(node, "Allocatable:") {
		t.Errorf("podctl describe node:\n%s", node)
	}
}

func testDelete(t *testing.T, s *suite) {
	a, b, c := sleeper("delete-a"), sleeper("delete-b"), sleeper("delete-c")
	c.Meta = "labels: {delete: me}"
	s.apply(t, a, b, c)
	for _, p := range []pod{a, b, c} {
		s.until(t, p.Name, "ready", ready)
	}
	file := filepath.Join(t.TempDir(), "b.yaml")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range []struct {
		name string
		args []string
	}{{"delete-a", []string{"pod", "delete-a"}}, {"delete-b", []string{"-f", file}}, {"delete-c", []string{"pods", "-l", "delete=me", "--now"}}} {
		if got := s.must(t, append([]string{"delete"}, d.args...)...); !strings.HasPrefix(got, `pod "`+d.name+`" deleted`) || strings.Count(got, "\n") != 1 {
			t.Errorf("podctl delete %v: %q", d.args, got)
		}
		if _, _, code := s.Podctl("get", "pod", d.name); code != 1 {
			t.Errorf("%s is there after podctl delete has returned", d.name)
		}
	}
	if got := s.refused(t, "", "delete", "pod", "delete-a"); !strings.Contains(got, `pods "delete-a" not found`) {
		t.Errorf("podctl delete of no pod: %q", got)
	}
	if got := s.must(t, "delete", "pod", "delete-a", "--ignore-not-found"); got != "" {
		t.Errorf("podctl delete --ignore-not-found: %q", got)
	}
	if got := s.refused(t, "", "delete"); got == "" {
		t.Error("podctl delete of nothing says nothing")
	}
}

func testVersion(t *testing.T, s *suite) {
	if got := s.must(t, "version"); !regexp.MustCompile(`^Client Version: \S+\nServer Version: v1\.36\.\d+\+podd\S*\n$`).MatchString(got) {
		t.Errorf("podctl version: %q", got)
	}
	var said struct {
		Server struct{ GitVersion, Major, Minor string } `json:"serverVersion"`
	}
	if err := json.Unmarshal([]byte(s.must(t, "version", "-o", "json")), &said); err != nil || said.Server.Minor != "36" {
		t.Errorf("podctl version -o json: %+v, %v", said, err)
	}
	if got := s.must(t, "version", "--client", "--socket", "/no/such"); !strings.HasPrefix(got, "Client Version: ") {
		t.Errorf("podctl version --client: %q", got)
	}
}

func testCompletion(t *testing.T, s *suite) {
	p := sleeper("completion")
	p.More = "- name: second\n  image: " + busybox + "\n  command: [sleep, '1000']"
	s.running(t, p)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := s.must(t, "completion", shell); !strings.Contains(got, "podctl") || len(got) < 500 {
			t.Errorf("podctl completion %s: %.100q", shell, got)
		}
	}
	for args, want := range map[string]string{
		"get pods comple": "completion", "logs comple": "completion", "exec comple": "completion", "delete pod comple": "completion",
		"logs completion -c s": "second", "exec completion -c s": "second", "image rm docker.io/library/busy": "docker.io/library/" + busybox,
		"get po": "pods", "-n kube-p": "",
	} {
		got := s.must(t, append([]string{"__complete"}, strings.Fields(args)...)...)
		if !strings.Contains("\n"+got, "\n"+want) {
			t.Errorf("completion of %q: %q, want %q", args, got, want)
		}
	}
}

// An error says what to do.
func testHints(t *testing.T, s *suite) {
	for _, c := range []struct{ args, want string }{
		{"--socket /no/such.sock get pods", "podd is not running (nothing answers on /no/such.sock): start it with"},
		{"aply -f x.yaml", "apply"},
		{"get pods --nope", "See 'podctl get --help' for usage"},
		{"apply", "say what to apply"},
		{"get", "resource"},
		{"image rm", "name at least one image"},
		{"image lst", "ls"},
		{"logs", "POD"},
	} {
		got := s.refused(t, "", strings.Fields(c.args)...)
		if !strings.Contains(got, c.want) || strings.Contains(got, "kubectl") {
			t.Errorf("podctl %s: %q, want %q", c.args, got, c.want)
		}
	}
	if got := s.must(t, "--help"); strings.Contains(got, "kubectl get") || !strings.Contains(got, "apply") {
		t.Errorf("podctl --help:\n%s", got)
	}
}

// The socket is for root and one group; whoever else comes is told what to do.
func testSocketPermissions(t *testing.T, s *suite) {
	group, err := user.LookupGroup(harness.Group)
	must(t, err)
	gid, err := strconv.ParseUint(group.Gid, 10, 32)
	must(t, err)
	st, err := os.Stat(s.Socket)
	if err != nil || st.Mode().Perm() != 0o660 || st.Sys().(*syscall.Stat_t).Uid != 0 || uint64(st.Sys().(*syscall.Stat_t).Gid) != gid {
		t.Errorf("the socket: %v, %+v, %v", st.Mode(), st.Sys(), err)
	}
	podctl, err := os.Open(filepath.Join(harness.Built(t), "podctl"))
	if err != nil {
		t.Fatal(err)
	}
	defer podctl.Close()
	as := func(who *syscall.Credential, args ...string) (string, error) {
		cmd := exec.Command("/proc/self/fd/3", args...) // a user may not be able to reach the path
		cmd.Dir, cmd.ExtraFiles = "/", []*os.File{podctl}
		cmd.Env = []string{"PODD_SOCKET=" + s.Socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := as(&syscall.Credential{Uid: 65534, Gid: 65534}, "get", "pods"); err == nil || !strings.Contains(out, "you may not open "+s.Socket+": join the group") {
		t.Errorf("podctl of another user: %v, %s", err, out)
	}
	out, err := as(&syscall.Credential{Uid: 65534, Gid: 65534}, "doctor")
	for _, want := range []string{"\nskip  socket        only root and the group " + harness.Group + " may open " + s.Socket, "\nskip  podd          you may not ask it", "\nskip  containerd", " not made as they need root: sudo podctl doctor\n"} {
		if err != nil || !strings.Contains(out, want) || strings.Contains(out, "\nfail") {
			t.Errorf("doctor of another user: %v, %s; want %q", err, out, want)
		}
	}
	// A member may do everything, and is who the kernel says he is: by the name that the host has for him, or by his number.
	for uid, name := range map[uint32]string{65534: nameOf(65534), 54321: "54321", 0: "root"} {
		out, err := as(&syscall.Credential{Uid: uid, Gid: 65534, Groups: []uint32{uint32(gid)}}, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.uid} {.status.userInfo.groups}")
		if want := fmt.Sprintf(`%s %d ["system:masters","system:authenticated"]`, name, uid); err != nil || out != want {
			t.Errorf("user %d of the group is %s, %v; want %s", uid, out, err, want)
		}
	}
	if out, err := as(&syscall.Credential{Uid: 54321, Gid: uint32(gid)}, "create", "configmap", "of-a-member", "--from-literal=a=1"); err != nil {
		t.Errorf("a member makes something: %v, %s", err, out)
	}
	s.must(t, "delete", "configmap", "of-a-member")
}

func nameOf(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

// synced is a buffer that is read while it is written.
type synced struct {
	buf bytes.Buffer
	mu  sync.Mutex
}

func (b *synced) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *synced) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
