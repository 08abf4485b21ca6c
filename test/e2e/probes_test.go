//go:build host

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"podd/test/harness"
)

// TestProbes is probes and hooks on one podd.
func TestProbes(t *testing.T) {
	t.Parallel()
	s := start(t, harness.WithArgs("--restart-backoff=1s"))
	for name, part := range map[string]func(*testing.T, *suite){
		"liveness": probeLiveness, "liveness never": probeLivenessNever, "readiness": probeReadiness, "startup": probeStartup,
		"startup fails": probeStartupFails, "named port": probeNamedPort, "host network": probeHostNetwork, "grpc": probeGRPC, "exec": probeExec, "delay": probeDelay,
		"postStart": hookPostStart, "postStart fails": hookPostStartFails, "preStop": hookPreStop, "preStop is cut": hookPreStopIsCut,
		"preStop of a condemned": hookPreStopCondemned, "http hooks": hooksHTTP,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); part(t, s) })
	}
}

// every is a probe of each second. It has more time than most need: this machine may be busy.
func every(probe, more string) string {
	return "{" + probe + ", periodSeconds: 1, timeoutSeconds: 15" + more + "}"
}

// events are those of a pod, as `container reason message`, with the oldest first.
func (s *suite) events(t *testing.T, name string) []string {
	t.Helper()
	list, err := s.client.CoreV1().Events(metav1.NamespaceDefault).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(list.Items, func(a, b v1.Event) int { return a.FirstTimestamp.Compare(b.FirstTimestamp.Time) })
	var out []string
	for _, e := range list.Items {
		out = append(out, strings.Join([]string{e.InvolvedObject.FieldPath, e.Type, e.Reason, e.Message}, " "))
	}
	return out
}

// hears waits for an event; they are written a moment after.
func (s *suite) hears(t *testing.T, name, event string) {
	t.Helper()
	eventually(t, func() error {
		if all := s.events(t, name); !slices.ContainsFunc(all, func(e string) bool { return strings.HasPrefix(e, event) }) {
			return fmt.Errorf("no event %q, but\n%s", event, strings.Join(all, "\n"))
		}
		return nil
	})
}

const ofApp = "spec.containers{app} "

// A container that fails its liveness probe is killed and runs again; the grace period is the probe's, not the pod's.
func probeLiveness(t *testing.T, s *suite) {
	const name = "liveness"
	s.running(t, pod{
		Name: name, Spec: "restartPolicy: Always\nterminationGracePeriodSeconds: 600",
		Script:    "echo up >/tmp/ok; trap '' TERM; sleep 1000000 & while :; do wait; done",
		Container: "livenessProbe: " + every("exec: {command: [cat, $(FILE)]}", ", failureThreshold: 2, terminationGracePeriodSeconds: 2") + "\nenv: [{name: FILE, value: /tmp/ok}]",
	})
	began := time.Now()
	s.sh(t, name, "rm /tmp/ok")
	again := s.until(t, name, "restarted", restarts(1))
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("restarted after %s: a second of probing and two of grace are more", took)
	}
	last := app(again).LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 || last.Reason != "Error" {
		t.Errorf("last: %+v", last)
	}
	s.hears(t, name, ofApp+"Warning Unhealthy Liveness probe failed: cat: can't open '/tmp/ok': No such file or directory")
	s.hears(t, name, ofApp+"Normal Killing Container app failed liveness probe, will be restarted")
	if all := strings.Join(s.events(t, name), "\n"); strings.Contains(all, "Stopping container") {
		t.Errorf("its end was told twice:\n%s", all)
	}
	s.remove(t, name)
}

func probeLivenessNever(t *testing.T, s *suite) {
	const name = "liveness-never"
	s.apply(t, pod{Name: name, Script: sleepScript, Container: "livenessProbe: " + every("tcpSocket: {port: 81}", ", failureThreshold: 1")})
	s.until(t, name, "ended", func(p *v1.Pod) bool { return phase(v1.PodSucceeded)(p) || phase(v1.PodFailed)(p) })
	s.hears(t, name, ofApp+"Normal Killing Container app failed liveness probe")
	for _, e := range s.events(t, name) {
		if strings.Contains(e, "will be restarted") {
			t.Errorf("event %s", e)
		}
	}
	s.remove(t, name)
}

// A container is not ready before its probe says so, and not any more when it says so; it is not restarted for that. A podd
// that comes back takes up what it was.
func probeReadiness(t *testing.T, s *suite) {
	const name = "readiness"
	s.apply(t, pod{
		Name: name, Script: "mkdir /www; httpd -p 8080 -h /www; " + sleepScript,
		Container: "readinessProbe: " + every("httpGet: {port: 8080, path: /ok}", ", failureThreshold: 1"),
	})
	s.hears(t, name, ofApp+"Warning Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404")
	p := s.until(t, name, "running", func(p *v1.Pod) bool { return app(p).State.Running != nil })
	if c := app(p); c.Ready || c.Started == nil || !*c.Started || ready(p) {
		t.Errorf("before: %+v", c)
	}
	s.sh(t, name, "echo ok >/www/ok")
	s.until(t, name, "ready", ready)
	s.sh(t, name, "rm /www/ok")
	p = s.until(t, name, "not ready", func(p *v1.Pod) bool { return condition(p, v1.PodReady) == v1.ConditionFalse })
	if c := app(p); c.Ready || c.RestartCount != 0 {
		t.Errorf("after: %+v", c)
	}
	s.sh(t, name, "echo ok >/www/ok")
	p = s.until(t, name, "ready again", ready)
	metrics := s.must(t, "get", "--raw", "/metrics/probes")
	for _, result := range []string{"failed", "successful"} {
		series := fmt.Sprintf(`prober_probe_total{container="app",namespace="default",pod="readiness",pod_uid="%s",probe_type="Readiness",result="%s"} `, p.UID, result)
		if !strings.Contains(metrics, series) {
			t.Errorf("no %s in\n%s", series, metrics)
		}
	}
	s.remove(t, name)
	eventually(t, func() error {
		if strings.Contains(s.must(t, "get", "--raw", "/metrics/probes"), string(p.UID)) {
			return errors.New("the numbers of a pod that is gone are kept")
		}
		return nil
	})
}

// The startup probe holds back the others: a container with a liveness probe that would kill it lives until then.
func probeStartup(t *testing.T, s *suite) {
	const name = "startup"
	s.apply(t, pod{
		Name: name, Script: "touch /tmp/live; " + sleepScript, Spec: "restartPolicy: Always",
		Container: "startupProbe: " + every("exec: {command: [cat, /tmp/started]}", ", failureThreshold: 60") +
			"\nlivenessProbe: " + every("exec: {command: [sh, -c, 'echo asked >>/tmp/asked; cat /tmp/live']}", ", failureThreshold: 1") +
			"\nreadinessProbe: " + every("exec: {command: [sh, -c, 'echo asked >>/tmp/asked']}", ""),
	})
	s.hears(t, name, ofApp+"Warning Unhealthy Startup probe failed: cat: can't open '/tmp/started'")
	p := s.until(t, name, "running", func(p *v1.Pod) bool { return app(p).State.Running != nil })
	if c := app(p); c.Ready || c.Started == nil || *c.Started {
		t.Errorf("before: %+v", c)
	}
	if asked := s.sh(t, name, "cat /tmp/asked 2>/dev/null | wc -l"); asked != "0" {
		t.Errorf("the other probes asked %s times", asked)
	}
	s.sh(t, name, "touch /tmp/started")
	p = s.until(t, name, "ready", ready)
	if c := app(p); !*c.Started || c.RestartCount != 0 {
		t.Errorf("after: %+v", c)
	}
	s.sh(t, name, "rm /tmp/live /tmp/started")
	p = s.until(t, name, "restarted, and starting again", func(p *v1.Pod) bool { return restarts(1)(p) && !*app(p).Started })
	if app(p).Ready {
		t.Error("ready before it has started again")
	}
	s.remove(t, name)
}

func probeStartupFails(t *testing.T, s *suite) {
	const name = "startup-fails"
	s.apply(t, pod{
		Name: name, Script: sleepScript, Spec: "restartPolicy: Always",
		Container: "startupProbe: " + every("tcpSocket: {port: 81}", ", failureThreshold: 2"),
	})
	s.until(t, name, "restarted", restarts(1))
	s.hears(t, name, ofApp+"Normal Killing Container app failed startup probe, will be restarted")
	s.remove(t, name)
}

// A pod in the host's network is asked at the host's address, and at another one if the probe names it.
func probeHostNetwork(t *testing.T, s *suite) {
	const name = "host-network"
	outside, inside := freePort(t), freePort(t)
	s.apply(t, pod{
		Name: name, Spec: "hostNetwork: true", Script: fmt.Sprintf("mkdir /www; httpd -p %d -h /www; httpd -p 127.0.0.1:%d -h /www; %s", outside, inside, sleepScript),
		Container: fmt.Sprintf("ports: [{name: web, containerPort: %d}]\nreadinessProbe: ", outside) + every("httpGet: {port: web, path: /ok}", ", failureThreshold: 1") +
			"\nstartupProbe: " + every(fmt.Sprintf("tcpSocket: {host: 127.0.0.1, port: %d}", inside), ", failureThreshold: 60"),
	})
	s.hears(t, name, ofApp+"Warning Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404")
	s.sh(t, name, "echo ok >/www/ok")
	p := s.until(t, name, "ready", ready)
	if p.Status.PodIP == "" || p.Status.PodIP != p.Status.HostIP || app(p).RestartCount != 0 {
		t.Errorf("address %s on host %s; %+v", p.Status.PodIP, p.Status.HostIP, app(p))
	}
	s.sh(t, name, "rm /www/ok")
	s.until(t, name, "not ready", func(p *v1.Pod) bool { return condition(p, v1.PodReady) == v1.ConditionFalse })
	s.remove(t, name)
}

// A named port is that of the container, and a host header goes with the request.
func probeNamedPort(t *testing.T, s *suite) {
	const name = "named-port"
	s.running(t, pod{
		Name: name, Script: "mkdir /www; echo ok >/www/ok; httpd -p 8081 -h /www; " + sleepScript,
		Container: "ports: [{name: web, containerPort: 8081}]\nreadinessProbe: " + every("httpGet: {port: web, path: /ok, httpHeaders: [{name: Host, value: example.com}]}", "") +
			"\nlivenessProbe: " + every("tcpSocket: {port: web}", ""),
	})
	s.remove(t, name)
	const lost = "port-lost"
	s.apply(t, pod{Name: lost, Script: sleepScript, Container: "readinessProbe: " + every("httpGet: {port: nowhere}", "")})
	s.hears(t, lost, ofApp+`Warning Unhealthy Readiness probe errored and resulted in unknown state: strconv.Atoi: parsing "nowhere": invalid syntax`)
	s.remove(t, lost)
}

// inside listens in the network of a pod.
func (s *suite) inside(t *testing.T, p *v1.Pod, address string) net.Listener {
	t.Helper()
	found, err := filepath.Glob(s.State + "/netns/" + string(p.UID) + "*")
	if err != nil || len(found) != 1 {
		t.Fatalf("namespaces of the pod: %v, %v", found, err)
	}
	type result struct {
		net.Listener
		error
	}
	done := make(chan result)
	go func() { // the thread ends with it: it is not unlocked
		runtime.LockOSThread()
		fd, err := unix.Open(found[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			_ = unix.Close(fd)
		}
		if err != nil {
			done <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp", address)
		done <- result{l, err}
	}()
	r := <-done
	if r.error != nil {
		t.Fatal(r.error)
	}
	return r.Listener
}

func probeGRPC(t *testing.T, s *suite) {
	const name = "grpc"
	s.apply(t, pod{Name: name, Script: sleepScript, Container: "readinessProbe: " + every("grpc: {port: 9090, service: mine}", ", failureThreshold: 1")})
	p := s.until(t, name, "running", func(p *v1.Pod) bool { return app(p).State.Running != nil })
	l := s.inside(t, p, ":9090")
	checks := health.NewServer()
	checks.SetServingStatus("mine", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, checks)
	served := make(chan error)
	go func() { served <- server.Serve(l) }()
	s.hears(t, name, ofApp+`Warning Unhealthy Readiness probe failed: service unhealthy (responded with "NOT_SERVING")`)
	checks.SetServingStatus("mine", grpc_health_v1.HealthCheckResponse_SERVING)
	s.until(t, name, "ready", ready)
	server.Stop()
	<-served
	s.until(t, name, "not ready", func(p *v1.Pod) bool { return condition(p, v1.PodReady) == v1.ConditionFalse })
	s.remove(t, name)
}

// A command that is not there has no answer, and one that takes too long fails and is ended.
func probeExec(t *testing.T, s *suite) {
	const missing, slow = "exec-missing", "exec-slow"
	s.apply(t, pod{Name: missing, Script: sleepScript, Spec: "restartPolicy: Always",
		Container: "livenessProbe: " + every("exec: {command: [nothing]}", ", failureThreshold: 1")})
	s.apply(t, pod{Name: slow, Script: sleepScript, Spec: "restartPolicy: Always",
		Container: "readinessProbe: " + "{exec: {command: [sleep, '1234']}, periodSeconds: 1}"})
	s.hears(t, slow, ofApp+`Warning Unhealthy Readiness probe failed: command timed out: "sleep 1234" timed out after 1s`)
	s.hears(t, missing, ofApp+"Warning Unhealthy Liveness probe errored and resulted in unknown state: ")
	if p := s.until(t, missing, "there", func(p *v1.Pod) bool { return p != nil }); app(p).RestartCount != 0 {
		t.Error("a probe without an answer has killed its container")
	}
	eventually(t, func() error {
		if n, _ := strconv.Atoi(s.sh(t, slow, "ps | grep -c '[s]leep 1234' || true")); n > 1 {
			return fmt.Errorf("%d commands of the probe run", n)
		}
		return nil
	})
	s.remove(t, missing)
	s.remove(t, slow)
}

// The initial delay counts from the start of the container.
func probeDelay(t *testing.T, s *suite) {
	const name = "delay"
	p := s.running(t, pod{Name: name, Script: sleepScript, Container: "readinessProbe: {exec: {command: ['true']}, initialDelaySeconds: 3, timeoutSeconds: 10}"})
	for _, c := range p.Status.Conditions {
		if took := c.LastTransitionTime.Sub(app(p).State.Running.StartedAt.Time); c.Type == v1.PodReady && (took < 3*time.Second || took > 8*time.Second) {
			t.Errorf("ready %s after the start", took)
		}
	}
	s.remove(t, name)
}

// A container is not up before its postStart hook has ended.
func hookPostStart(t *testing.T, s *suite) {
	const name = "post-start"
	s.apply(t, pod{Name: name, Script: sleepScript, Container: `lifecycle: {postStart: {exec: {command: [sh, -c, 'while ! [ -e /tmp/go ]; do sleep 0.1; done']}}}
readinessProbe: ` + every("exec: {command: [touch, /tmp/asked]}", "")})
	eventually(t, func() error {
		p := s.until(t, name, "there", func(p *v1.Pod) bool { return p != nil })
		if w := app(p).State.Waiting; w == nil || w.Reason != "ContainerCreating" {
			return fmt.Errorf("app is %+v", app(p).State)
		}
		_, _, code := s.Podctl("exec", name, "--", "true")
		if code != 0 {
			return errors.New("it does not run yet")
		}
		return nil
	})
	if out := s.sh(t, name, "ls /tmp"); strings.Contains(out, "asked") {
		t.Error("it was asked whether it is ready before it was up")
	}
	s.sh(t, name, "touch /tmp/go")
	s.until(t, name, "ready", ready)
	s.remove(t, name)
}

func hookPostStartFails(t *testing.T, s *suite) {
	const name = "post-start-fails"
	s.apply(t, pod{Name: name, Script: sleepScript, Spec: "restartPolicy: Always",
		Container: "lifecycle: {postStart: {exec: {command: [sh, -c, 'echo secret; exit 3']}}}"})
	p := s.until(t, name, "held back for its hook", func(p *v1.Pod) bool { return waiting("PostStartHookError")(p) || app(p).RestartCount > 0 })
	if w := app(p).State.Waiting; w != nil && w.Reason == "PostStartHookError" && !strings.HasPrefix(w.Message,
		`Exec lifecycle hook ([sh -c echo secret; exit 3]) for Container "app" in Pod "post-start-fails_default(`+string(p.UID)+`)" failed - error: command 'sh -c echo secret; exit 3' exited with 3: , message: "secret\n"`) {
		t.Errorf("waiting: %s", w.Message)
	}
	s.hears(t, name, ofApp+"Warning FailedPostStartHook PostStartHook failed")
	s.hears(t, name, ofApp+"Normal Killing FailedPostStartHook")
	for _, e := range s.events(t, name) {
		if strings.Contains(e, "secret") {
			t.Errorf("event tells what the hook said: %s", e)
		}
	}
	s.until(t, name, "restarted", func(p *v1.Pod) bool { return app(p).RestartCount > 0 })
	s.remove(t, name)
}

// The hook runs before the signal, and its seconds are part of the grace period.
func hookPreStop(t *testing.T, s *suite) {
	const name = "pre-stop"
	dir := t.TempDir()
	s.running(t, pod{
		Name: name, Script: "trap 'touch /out/signal; exit 0' TERM; sleep 1000000 & wait", Spec: "terminationGracePeriodSeconds: 30\nvolumes: [{name: out, hostPath: {path: " + dir + "}}]",
		Container: "volumeMounts: [{name: out, mountPath: /out}]\nlifecycle: {preStop: {exec: {command: [sh, -c, 'touch /out/hook; sleep 2']}}}",
	})
	s.must(t, "delete", "pod", name)
	hook, signal := stamp(t, dir+"/hook"), stamp(t, dir+"/signal")
	if between := signal.Sub(hook); between < 2*time.Second || between > 10*time.Second {
		t.Errorf("the signal came %s after the hook began", between)
	}
	s.hears(t, name, ofApp+"Normal Killing Stopping container app")
}

// A hook that does not end is cut when the grace period is over. The signal has two seconds then.
func hookPreStopIsCut(t *testing.T, s *suite) {
	const name = "pre-stop-cut"
	dir := t.TempDir()
	s.running(t, pod{
		Name: name, Script: "trap 'touch /out/signal; exit 0' TERM; sleep 1000000 & wait", Spec: "terminationGracePeriodSeconds: 8\nvolumes: [{name: out, hostPath: {path: " + dir + "}}]",
		Container: "volumeMounts: [{name: out, mountPath: /out}]\nlifecycle: {preStop: {exec: {command: [sh, -c, 'touch /out/hook; sleep 1000']}}}",
	})
	began := time.Now()
	s.must(t, "delete", "pod", name)
	if hook, signal := stamp(t, dir+"/hook"), stamp(t, dir+"/signal"); !hook.After(began) || signal.Sub(began) < 7*time.Second || signal.Sub(began) > 14*time.Second {
		t.Errorf("the hook began after %s, and the signal came after %s", hook.Sub(began), signal.Sub(began))
	}
	s.hears(t, name, ofApp+"Warning FailedPreStopHook PreStopHook failed")
}

// The hook of a container that its liveness probe has condemned runs as well.
func hookPreStopCondemned(t *testing.T, s *suite) {
	const name = "pre-stop-condemned"
	dir := t.TempDir()
	s.apply(t, pod{
		Name: name, Script: "trap 'echo signal >>/out/log; exit 0' TERM; sleep 1000000 & wait", Spec: "restartPolicy: Always\nterminationGracePeriodSeconds: 20\nvolumes: [{name: out, hostPath: {path: " + dir + "}}]",
		Container: "volumeMounts: [{name: out, mountPath: /out}]\nlifecycle: {preStop: {exec: {command: [sh, -c, 'echo hook >>/out/log']}}}\n" +
			"livenessProbe: " + every("tcpSocket: {port: 81}", ", failureThreshold: 1, initialDelaySeconds: 1"),
	})
	s.until(t, name, "restarted", restarts(1))
	if got := strings.Fields(read(t, dir+"/log")); len(got) < 2 || got[0] != "hook" || got[1] != "signal" {
		t.Errorf("%q", got)
	}
	s.remove(t, name)
}

// A hook over HTTP asks the host that it names; a tcpSocket hook fails, as upstream has it.
func hooksHTTP(t *testing.T, s *suite) {
	const name = "hooks-http"
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.UserAgent() + " " + r.RequestURI }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.running(t, pod{
		Name: name, Script: sleepScript, Spec: "terminationGracePeriodSeconds: 20",
		Container: "lifecycle:\n  postStart: {httpGet: {host: 127.0.0.1, port: " + port + ", path: '/hook?started', scheme: HTTPS}}\n  preStop: {tcpSocket: {port: 8080}}",
	})
	if got := <-asked; got != "kube-lifecycle/1.36 /hook?started" || len(asked) != 0 {
		t.Errorf("asked for %q, and %d times more", got, len(asked))
	}
	s.hears(t, name, ofApp+"Warning LifecycleHTTPFallback request to HTTPS lifecycle hook 127.0.0.1:"+port+" got HTTP response, retry with HTTP succeeded")
	s.must(t, "delete", "pod", name)
	s.hears(t, name, ofApp+"Warning FailedPreStopHook PreStopHook failed")
}

// stamp is when a container has written a file.
func stamp(t *testing.T, file string) time.Time {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// TestProbesOfMany has twenty probes hang in their containers and another one flood podd: users' commands and other probes
// notice nothing, and neither does podd's memory.
func TestProbesOfMany(t *testing.T) {
	t.Parallel()
	s := start(t)
	var more strings.Builder
	const hang = "Probe: {exec: {command: [sleep, '7654321']}, timeoutSeconds: 3600}"
	for i := range 10 {
		fmt.Fprintf(&more, "- {name: c%d, image: %s, command: [sleep, infinity], readiness%s, liveness%s}\n", i, busybox, hang, hang)
	}
	s.apply(t, pod{Name: "hanging", Script: sleepScript, More: more.String()})
	s.apply(t, pod{Name: "flooding", Script: sleepScript, Container: "readinessProbe: {exec: {command: ['yes']}, periodSeconds: 1, timeoutSeconds: 2}"})
	eventually(t, func() error {
		if n := commands(t, "sleep\x007654321\x00"); n < 20 {
			return fmt.Errorf("%d probes hang", n)
		}
		return nil
	})
	s.hears(t, "flooding", ofApp+`Warning Unhealthy Readiness probe failed: command timed out: "yes" timed out after 2s`)
	before := rss(t, s.Pid())
	slow := asksSlowly(t, s, "other")
	slowExec := execTime(t, s, "hanging")
	if p := s.until(t, "hanging", "there", func(p *v1.Pod) bool { return p != nil }); ready(p) || container(p, "c3").State.Running == nil {
		t.Errorf("hanging: %+v", p.Status)
	}
	for flooded := time.Now(); time.Since(flooded) < 6*time.Second; time.Sleep(time.Second) {
		if now := rss(t, s.Pid()); now > before+30<<20 {
			t.Fatalf("podd's memory grew from %d to %d MiB", before>>20, now>>20)
		}
	}
	for _, name := range []string{"hanging", "flooding"} {
		s.remove(t, name)
	}
	// The same once more with nothing that hangs or floods: what the host and its other work take is in both.
	usual, usualExec := asksSlowly(t, s, "usual"), execTime(t, s, "usual")
	t.Logf("questions %s apart, %s without; a command took %s, %s without", slow, usual, slowExec, usualExec)
	if slow > 3*usual+time.Second {
		t.Errorf("a probe of another pod was asked %s apart beside what hangs, and %s without", slow, usual)
	}
	if slowExec > 3*usualExec+time.Second {
		t.Errorf("a command took %s beside what hangs, and %s without", slowExec, usualExec)
	}
	s.remove(t, "other")
	s.remove(t, "usual")
}

// asksSlowly makes a pod with an exec probe every second, and is the median of the time between its questions, as they are
// seen in the container.
func asksSlowly(t *testing.T, s *suite, name string) time.Duration {
	t.Helper()
	s.running(t, pod{Name: name, Script: sleepScript, Container: "readinessProbe: {exec: {command: [sh, -c, 'read up idle </proc/uptime; echo $up >>/tmp/asked']}, periodSeconds: 1, timeoutSeconds: 20}"})
	var times []float64
	eventually(t, func() error {
		times = times[:0]
		for word := range strings.FieldsSeq(s.sh(t, name, "cat /tmp/asked")) {
			if at, err := strconv.ParseFloat(word, 64); err == nil {
				times = append(times, at)
			}
		}
		if len(times) < 6 {
			return fmt.Errorf("it was asked %d times", len(times))
		}
		return nil
	})
	var apart []time.Duration
	for i := range times[1:] {
		apart = append(apart, time.Duration((times[i+1]-times[i])*float64(time.Second)))
	}
	slices.Sort(apart)
	return apart[len(apart)/2]
}

// execTime is the median of what a user's command takes in a container.
func execTime(t *testing.T, s *suite, name string) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 5 {
		began := time.Now()
		s.sh(t, name, "true")
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// commands is how many processes of this machine have that command line.
func commands(t *testing.T, line string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if got, err := os.ReadFile(f); err == nil && string(got) == line {
			n++
		}
	}
	return n
}

// TestProbesSurvive kills podd while a container is ready: it is not seen to change, and is not asked again whether it has started.
// What becomes of a preStop hook is told by the story pre-stop-podd-killed, and TestKillPoints kills podd at its end.
func TestProbesSurvive(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.running(t, pod{Name: "steady", Script: sleepScript, Container: "startupProbe: {exec: {command: [sh, -c, 'echo asked >>/tmp/asked']}, periodSeconds: 100, timeoutSeconds: 90}\n" +
		"readinessProbe: {exec: {command: ['true']}, periodSeconds: 100, timeoutSeconds: 90}"})
	w, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Get(t.Context(), "steady", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.must(t, "create", "configmap", "written") // and so the status is, which was before it
	s.Kill()
	s.Launch()
	s.WaitReady()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if p, err := s.follow(ctx, "steady", func(p *v1.Pod) bool { return !ready(p) || !*app(p).Started }); err == nil {
		t.Errorf("it was seen as %+v", p.Status)
	}
	p := s.until(t, "steady", "ready", ready)
	if a, b := readySince(w), readySince(p); !a.Equal(b) {
		t.Errorf("ready since %s, then since %s", a, b)
	}
	if asked := s.sh(t, "steady", "wc -l </tmp/asked"); strings.TrimSpace(asked) != "1" {
		t.Errorf("it was asked %s times whether it had started", asked)
	}
	s.remove(t, "steady")
}

func readySince(p *v1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}
