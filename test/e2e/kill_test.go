//go:build host

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"podd/status"
	"podd/test/harness"
)

// recovery is how soon after podd is started again everything has to be right, beyond the time that the stage in which it
// died takes by itself: podd that died before it had made anything of a pod has to make all of it.
const recovery = 5 * time.Second

// slow is how long a stage may take before it is called stuck.
const slow = time.Minute

// TestKillPoints kills podd with SIGKILL at every line of code that has a name for that: while a pod is created, entered,
// restarted, given another sandbox, deleted. A podd without a kill point is started then, and within five seconds, beyond what
// it was at takes by itself, the pod is as it would be had nothing happened: no restart too many, nothing left behind, and
// another pod was never touched.
func TestKillPoints(t *testing.T) {
	const lanes = 2
	points := killPoints(t)
	for lane := range lanes {
		t.Run(fmt.Sprintf("lane%d", lane), func(t *testing.T) {
			t.Parallel()
			m := newMortal(t)
			var mine []string
			for i := lane; i < len(points); i += lanes {
				mine = append(mine, points[i])
			}
			shared, alone := m.share(mine)
			for _, deaths := range shared {
				t.Run(deaths.String(), func(t *testing.T) { m.dieOften(t, deaths) })
			}
			for _, point := range alone {
				t.Run(point, func(t *testing.T) { m.die(t, point) })
			}
		})
	}
}

// deaths are kill points of one life, by the stage in which podd dies there.
type deaths map[string]string

// String is all points, in the order of the stages.
func (d deaths) String() string {
	var all []string
	for _, s := range life {
		if point := d[s.name]; point != "" {
			all = append(all, point)
		}
	}
	return strings.Join(all, "+")
}

// share gives points of different stages to one life, since making and ending a pod takes most of the time. What ends an
// instance or a sandbox also ends the pod, so podd dies there twice. The points that need a life of their own are left over.
func (m *mortal) share(points []string) (shared []deaths, alone []string) {
	stages := map[string][]string{}
	for _, point := range points {
		home := m.home[point]
		if _, ok := special[point]; ok || home == "" || strings.HasPrefix(point, "finish.") {
			alone = append(alone, point)
			continue
		}
		stages[home] = append(stages[home], point)
		if home == "restart" || home == "sandbox" {
			stages["delete"] = append(stages["delete"], point)
		}
	}
	for stage, all := range stages {
		for i, point := range all {
			if i == len(shared) {
				shared = append(shared, deaths{})
			}
			shared[i][stage] = point
		}
	}
	return shared, alone
}

// dieOften lives one life in which podd dies at each of the points, each in its stage, and looks after each. A point that
// podd did not come to gets a whole life.
func (m *mortal) dieOften(t *testing.T, at deaths) {
	missed := m.livePast(t, at)
	m.judge(t, life, func() { m.livePast(t, at) })
	for _, point := range missed {
		m.die(t, point)
	}
	if point := at["delete"]; point != "" && m.home[point] == "delete" && !slices.Contains(missed, point) {
		m.dieFinished(t, point)
	}
}

// livePast is the life itself. It tells which points podd did not come to.
func (m *mortal) livePast(t *testing.T, at deaths) (missed []string) {
	t.Helper()
	m.victim = victim{killed: map[string]bool{}}
	if !m.listens {
		m.listen(t)
	}
	app, side := int32(0), int32(0)
	for _, s := range life {
		point := at[s.name]
		switch s.name {
		case "exec", "restart", "sandbox":
			if point == "" {
				continue
			}
		}
		switch s.name { // what went before decides how often the containers were restarted
		case "restart":
			app++
			s.act, s.right = crash("app", int(app-1)), lives(app, side)
		case "sandbox":
			app, side = app+1, side+1
			s.right = lives(app, side)
		case "exec":
			s.right = lives(app, side)
		}
		switch {
		case point == "":
			m.tell(t, "")
			began := time.Now()
			if m.pass(t, s, slow) {
				t.Fatalf("podd died:\n%s", m.Logs())
			}
			m.usual[s.name] = time.Since(began)
		case !m.dieIn(t, point, s) && m.home[point] == s.name:
			missed = append(missed, point)
		}
	}
	m.checkBystander(t)
	if m.CheckLeaks(); m.lane.Failed() {
		m.Rebase() // what was reported is not reported again
	}
	return missed
}

// dieIn has the podd that runs die at a point in one stage, and recover. It tells whether podd came there.
func (m *mortal) dieIn(t *testing.T, point string, s stage) bool {
	t.Helper()
	m.tell(t, point)
	began := time.Now()
	if !m.pass(t, s, slow) {
		m.usual[s.name] = time.Since(began)
		m.tell(t, "")
		return false
	}
	t.Logf("died at %s in %s", point, s.name)
	m.recover(t, s)
	return true
}

// TestPullDies kills podd while an image is pulled. The pull goes on when podd is back, and nothing is left of the first.
func TestPullDies(t *testing.T) {
	t.Parallel()
	s := start(t)
	h := newHub(t, "dies/app:1") // ends before podd is looked at for connections with it
	h.gate.Lock()
	open := sync.OnceFunc(h.gate.Unlock)
	defer open() // the registry does not end before
	h.arrived.Store(0)
	s.apply(t, h.image("pulling", "dies/app:1"))
	eventually(t, func() error {
		if h.arrived.Load() == 0 {
			return errors.New("no layer was asked for")
		}
		return nil
	})
	s.Kill()
	open()
	began := time.Now()
	s.Launch()
	s.WaitReady()
	pod := s.until(t, "pulling", "succeeded", phase(v1.PodSucceeded))
	if took := time.Since(began); took > recovery {
		t.Errorf("all was right again only after %s", took)
	}
	if n := app(pod).RestartCount; n != 0 {
		t.Errorf("the container was restarted %d times", n)
	}
	s.remove(t, "pulling")
	eventually(t, func() error { // the object of a pod that has ended goes before its containers
		if _, errs, code := s.Podctl("image", "rm", h.address+"/dies/app:1"); code != 0 {
			return errors.New(errs)
		}
		return nil
	})
}

// killPoints is every name in the sources, sorted. A name stands at one line only.
func killPoints(t *testing.T) []string {
	t.Helper()
	root, err := harness.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	call := regexp.MustCompile(`killpoint\.At\(([^)]*)\)`)
	where := map[string]string{}
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range call.FindAllStringSubmatch(string(text), -1) {
			name := strings.Trim(found[1], `"`)
			if len(name) != len(found[1])-2 {
				t.Errorf("%s: the name of a kill point has to be a literal: %s", path, found[0])
			}
			if other, taken := where[name]; taken {
				t.Errorf("kill point %s is in %s and in %s", name, other, path)
			}
			if !strings.HasPrefix(name, "volumes.iscsi.") { // the kernel may have none: those are in volumes' own test
				where[name] = path
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(where) < 60 {
		t.Fatalf("found only %d kill points", len(where))
	}
	return slices.Sorted(maps.Keys(where))
}

// mortal is a podd that dies often, with a bystander that nothing may happen to.
type mortal struct {
	*suite
	lane      *testing.T
	name      string // of the victim
	hostPort  int
	sharePID  bool // the victim's containers share a PID namespace
	ownUsers  bool // it has users of its own
	watched   bool // the victim has probes and hooks
	bystander *v1.Pod
	processes map[string]process       // of the bystander, by container id
	usual     map[string]time.Duration // what a stage took when podd did not die in it, the last time, by its name
	trace     string                   // the file that names the kill points that podd passes
	told      string                   // the file that names the one at which podd dies
	listens   bool                     // the podd that runs looks into told
	late      []lateness               // what took longer than it may, if the host is as fast as when it was measured
	home      map[string]string        // by kill point, the first stage of life that passes it
	victim    victim
}

// lateness is a stage after podd's death that took too long.
type lateness struct {
	stage string
	took  time.Duration
	story string
}

func (l lateness) String() string { return fmt.Sprintf("%s after %s", l.stage, l.took) }

// victim is the pod that podd works on when it dies.
type victim struct {
	uid     types.UID
	empty   bool            // the directory for its hostPaths was emptied
	entered bool            // exec was tried
	fallen  bool            // its server was ended
	claimed bool            // its claim was bound, and is to go
	killed  map[string]bool // ids of the containers whose process the test has killed
}

// stage is one thing that happens to the victim, and what is right after it.
type stage struct {
	name  string
	act   func(*mortal, context.Context) error // done again after podd's death, and goes on where it was
	right func(*mortal, context.Context) error // nil as soon as everything is as it should be
}

// The lives of a victim. Every kill point is passed in the first, unless it has a life of its own in special; what of it is
// not needed to come to a point is left out, see lifeTo.
var (
	life = []stage{
		{"create", (*mortal).create, lives(0, 0)},
		{"exec", (*mortal).enter, lives(0, 0)},
		{"restart", crash("app", 0), lives(1, 0)},
		{"sandbox", crash("", 0), lives(2, 1)},
		{"delete", (*mortal).delete, (*mortal).isGone},
	}
	shortLife    = []stage{life[0], life[4]}
	watchedLife  = []stage{life[0], {"fall", (*mortal).fall, lives(1, 0)}, life[4]}
	renewedLife  = []stage{life[0], {"renew", renew, lives(1, 1)}, life[4]}
	finishedLife = []stage{
		{"finish", (*mortal).createFinite, (*mortal).hasSucceeded},
		{"delete", (*mortal).delete, (*mortal).isCleared},
	}
	claimedLife = []stage{life[0], {"claim", (*mortal).claim, (*mortal).isClaimed}, life[4]}
	resizedLife = []stage{life[0], {"resize", (*mortal).resize, (*mortal).isResized}, life[4]}
	staticLife  = []stage{
		{"manifest", (*mortal).putManifest, lives(0, 0)},
		{"no manifest", (*mortal).dropManifest, (*mortal).isGone},
	}
)

// special are the points that need something to be found when podd starts, and the life that passes them.
var special = map[string]struct {
	prepare func(*mortal, *testing.T)
	life    []stage
}{
	"store.rewrite.before":      {(*mortal).tear, shortLife},
	"store.rewrite.after":       {(*mortal).tear, shortLife},
	"network.conf.before":       {(*mortal).dropNetworkConf, life},
	"network.conf.after":        {(*mortal).dropNetworkConf, life},
	"sandbox.pinned":            {func(m *mortal, _ *testing.T) { m.sharePID = true }, shortLife},
	"sandbox.users.made":        {func(m *mortal, _ *testing.T) { m.ownUsers = true }, shortLife},
	"sandbox.users.pinned":      {func(m *mortal, _ *testing.T) { m.ownUsers = true }, shortLife},
	"allocate.before":           {nil, resizedLife},
	"allocate.after":            {nil, resizedLife},
	"claims.directory":          {nil, claimedLife},
	"resize.raised":             {nil, resizedLife},
	"resize.updated":            {nil, resizedLife},
	"resize.lowered":            {nil, resizedLife},
	"resize-pod.lowered":        {nil, resizedLife},
	"post-start.ended":          {beWatched, watchedLife},
	"probe.noted":               {beWatched, watchedLife},
	"condemn.noted":             {beWatched, watchedLife},
	"pre-stop.ended":            {beWatched, watchedLife},
	"restart-all.before":        {nil, renewedLife},
	"restart-all.after":         {nil, renewedLife},
	"containers.create.replace": {nil, []stage{life[0], {"squat", (*mortal).squat, lives(0, 0)}, life[2], life[4]}},
}

// tear leaves the state file as a crash of the host does in the middle of a commit: the next podd writes it anew.
func (m *mortal) tear(t *testing.T) {
	t.Helper()
	m.live(t, "", shortLife, -1) // how long it takes, before podd is ended
	m.Kill()
	m.listens = false
	file, err := os.OpenFile(filepath.Join(m.Root, "state.db"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	end, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.WriteAt([]byte{0xff}, end+64<<10) // after the zeros of what was not written
	}
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
}

func newMortal(t *testing.T) *mortal {
	m := &mortal{lane: t, suite: start(t, harness.WithArgs("--restart-backoff=10ms", "--restart-backoff-max=20ms"), standIns(t)), name: "victim",
		usual: map[string]time.Duration{}, home: map[string]string{}, trace: filepath.Join(t.TempDir(), "trace"), told: filepath.Join(t.TempDir(), "told")}
	m.client = m.fleeting(t)
	m.hostPort = freePort(t)
	m.bystander = m.running(t, pod{
		Name: "bystander", Container: "command: [sleep, infinity]", Spec: "restartPolicy: Always",
		More: "- {name: side, image: " + busybox + ", command: [sleep, infinity]}\n",
	})
	m.sleeping(t, 2)
	m.processes = m.mustTasks(t)
	m.Launch("PODD_KILL_TRACE=" + m.trace)
	m.WaitReady()
	m.Rebase()
	m.live(t, "", life, -1) // podd does not die in this one
	return m
}

// settled notes that a stage is over: the kill points that were passed for the first time are at home there.
func (m *mortal) settled(t *testing.T, s stage) {
	t.Helper()
	passed, err := os.ReadFile(m.trace)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(string(passed)) {
		if m.home[name] == "" {
			m.home[name] = s.name
		}
	}
}

// lifeTo is the shortest life that comes to a kill point; all of it, if it is not known where the point is at home.
func (m *mortal) lifeTo(point string) []stage {
	switch m.home[point] {
	case "create", "delete":
		return shortLife
	case "restart":
		return []stage{life[0], life[2], life[4]}
	case "sandbox":
		return []stage{life[0], {"sandbox", crash("", 0), lives(1, 1)}, life[4]}
	}
	return life
}

// die has podd die at a point, early in the first life that passes it and then in the deletion, and looks.
func (m *mortal) die(t *testing.T, point string) {
	stages := m.lifeTo(point)
	defer func() { m.sharePID, m.ownUsers, m.watched = false, false, false }()
	if s, ok := special[point]; ok {
		if stages = s.life; s.prepare != nil {
			s.prepare(m, t)
		}
	}
	if slices.ContainsFunc(stages, func(s stage) bool { _, known := m.usual[s.name]; return !known }) {
		m.live(t, "", stages, -1) // podd does not die in this one
	}
	at, ok := m.live(t, point, stages, 0)
	if !ok && len(stages) < len(life) {
		at, ok = m.live(t, point, life, 0)
	}
	if !ok {
		t.Fatalf("podd never came to kill point %s", point)
	}
	t.Logf("died in %s", at)
	if strings.HasPrefix(point, "finish.") { // the object of a static pod goes another way
		if at, ok = m.live(t, point, staticLife, 1); !ok {
			t.Errorf("podd never came to kill point %s when a manifest was removed", point)
		}
		t.Logf("died in %s, too", at)
	}
	if at == "delete" {
		m.dieFinished(t, point)
		return
	}
	if at != "restart" && at != "sandbox" && at != "fall" {
		return
	}
	// What ends an instance or a sandbox also ends the pod.
	if at, ok = m.live(t, point, shortLife, 1); ok {
		t.Logf("died in %s, too", at)
	}
}

// dieFinished has podd die at a point with a pod that finishes, which goes another way.
func (m *mortal) dieFinished(t *testing.T, point string) {
	t.Helper()
	if at, ok := m.live(t, point, finishedLife, 0); ok {
		t.Logf("died in %s of a pod that finishes, too", at)
	}
}

// live lets the victim live, with podd to die at point from stages[from] on. It tells in which stage podd died; false if
// it never did.
func (m *mortal) live(t *testing.T, point string, stages []stage, from int) (string, bool) {
	t.Helper()
	at, died := m.liveOnce(t, point, stages, from)
	m.judge(t, stages, func() { m.liveOnce(t, point, stages, from) })
	return at, died
}

func (m *mortal) liveOnce(t *testing.T, point string, stages []stage, from int) (string, bool) {
	t.Helper()
	m.victim = victim{killed: map[string]bool{}}
	died, at := false, ""
	for i, s := range stages {
		if i == from {
			m.Launch("PODD_KILL_AT=" + point)
			m.listens = false
			if died = m.awaitReady(t, slow); died {
				at = "start"
				break
			}
		}
		began := time.Now()
		if died = m.pass(t, s, slow); died {
			at = s.name
			m.recover(t, s)
			break
		}
		m.usual[s.name] = time.Since(began)
		if from < 0 {
			m.settled(t, s)
		}
	}
	if died && at == "start" {
		m.recover(t, stage{name: at})
	}
	if m.victim.uid != "" {
		m.pass(t, stage{"end", (*mortal).delete, (*mortal).isGone}, slow)
	}
	m.checkBystander(t)
	if m.CheckLeaks(); m.lane.Failed() {
		m.Rebase() // what was reported is not reported again
	}
	return at, died
}

// recover starts podd without a kill point and gives it five seconds to make everything right, and what the stage takes.
func (m *mortal) recover(t *testing.T, s stage) {
	t.Helper()
	began := time.Now()
	m.listen(t)
	if s.act != nil && m.pass(t, s, slow) {
		t.Fatalf("podd died again:\n%s", m.Logs())
	}
	if took, usual := time.Since(began), m.usual[s.name]; took > recovery+usual {
		m.late = append(m.late, lateness{s.name, took, m.story(m.name)})
	} else {
		t.Logf("all was right again after %s, where the stage takes %s", took.Round(time.Millisecond), usual.Round(time.Millisecond))
	}
}

// judge says what was late. The host may have got busier since it was measured what the stages take, so that is done again; and
// it may have been busy just then, so a stage is late only if it is again each time that again lets podd die there.
func (m *mortal) judge(t *testing.T, stages []stage, again func()) {
	t.Helper()
	if len(m.late) == 0 {
		return
	}
	late := m.late
	before := maps.Clone(m.usual)
	m.late = nil
	m.liveOnce(t, "", stages, -1)
	now := m.usual
	m.usual = before // what is measured while the host is at its busiest excuses nothing later
	onTime := func(l lateness) bool { return l.took <= recovery+now[l.stage] }
	late = slices.DeleteFunc(late, onTime)
	for tries := 0; tries < 2 && len(late) > 0; tries++ {
		t.Logf("late, and so tried again: %s", late)
		m.late = nil
		again()
		late = slices.DeleteFunc(m.late, func(l lateness) bool {
			return onTime(l) || !slices.ContainsFunc(late, func(was lateness) bool { return was.stage == l.stage })
		})
	}
	m.late = nil
	for _, l := range late {
		t.Errorf("podd died in %s, which takes %s: all was right again only after %s, three times\n%s\npodd:\n%s", l.stage, now[l.stage], l.took, l.story, m.Logs())
	}
}

// listen starts a podd that dies where tell says.
func (m *mortal) listen(t *testing.T) {
	t.Helper()
	m.tell(t, "")
	m.Launch("PODD_KILL_FILE=" + m.told)
	m.listens = true
	if m.awaitReady(t, slow) {
		t.Fatalf("podd ended while it started:\n%s", m.Logs())
	}
}

// tell says to the podd that runs where to die; nowhere, if point is "".
func (m *mortal) tell(t *testing.T, point string) {
	t.Helper()
	if err := os.WriteFile(m.told, []byte(point), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pass goes through a stage. It returns true as soon as podd has died.
func (m *mortal) pass(t *testing.T, s stage, limit time.Duration) (died bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	alive, over := context.WithCancel(ctx)
	defer over()
	exited := m.Exited()
	watched := make(chan struct{})
	defer func() { over(); <-watched }()
	go func() {
		defer close(watched)
		select {
		case <-exited:
			over()
		case <-alive.Done():
		}
	}()
	dead := func() bool {
		select {
		case <-exited:
			return true
		default:
			return false
		}
	}
	err := s.act(m, alive)
	if err == nil {
		err = m.settle(alive, s.right)
	}
	if err != nil && ctx.Err() == nil && !dead() { // the connection ends a moment before the process is reaped
		select {
		case <-exited:
		case <-time.After(time.Second):
		}
	}
	switch {
	case dead():
		return true
	case err != nil:
		story := m.story(m.name)
		if err := m.clear(); err != nil {
			story += "\n" + err.Error()
		}
		t.Fatalf("%s: %v\n%s", s.name, err, story)
	}
	return false
}

// settle asks until the answer is nil, at each change of the pod and, for what has no watch, again and again.
func (m *mortal) settle(ctx context.Context, right func(*mortal, context.Context) error) error {
	for {
		err := right(m, ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(40 * time.Millisecond): // asking is work for podd and containerd, too
		}
	}
}

// awaitReady returns when podd serves, or true when it has ended before.
func (m *mortal) awaitReady(t *testing.T, limit time.Duration) (died bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		if err := m.client.RESTClient().Get().AbsPath("/readyz").Do(t.Context()).Error(); err == nil {
			return false
		}
		select {
		case <-m.Exited():
			return true
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatalf("podd is not ready after %s:\n%s", limit, m.Logs())
	return false
}

// clear takes the victim away by force, for the next point.
func (m *mortal) clear() error {
	out, errs, code := m.Podctl("delete", "pod", m.name, "--force", "--grace-period=0", "--ignore-not-found", "--timeout=10s")
	if code != 0 {
		return fmt.Errorf("delete %s: %s%s", m.name, out, errs)
	}
	return nil
}

// What happens to the victim.

func beWatched(m *mortal, _ *testing.T) { m.watched = true }

func (m *mortal) manifest() string {
	watched, share := "", "nfs: {server: stand-in, path: /x}"
	if m.ownUsers { // with which nfs does not go
		share = "emptyDir: {}"
	}
	if m.watched {
		watched = `
lifecycle: {postStart: {exec: {command: ['true']}}, preStop: {exec: {command: ['true']}}}
livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, initialDelaySeconds: 2, failureThreshold: 1}
readinessProbe: {exec: {command: [test, -e, /data/made]}, periodSeconds: 1, timeoutSeconds: 10}`
	}
	return pod{
		Name: "victim", Script: "httpd -p 8080 -h /data; trap 'exit 42' USR1; " + sleepScript,
		Spec: `
restartPolicy: Always
terminationGracePeriodSeconds: 2
shareProcessNamespace: ` + strconv.FormatBool(m.sharePID) + `
hostUsers: ` + strconv.FormatBool(!m.ownUsers) + `
volumes:
- {name: data, emptyDir: {}}
- {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
- {name: about, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}
- {name: dir, hostPath: {path: ` + m.Dir + `/host/dir, type: DirectoryOrCreate}}
- {name: file, hostPath: {path: ` + m.Dir + `/host/file, type: FileOrCreate}}
- {name: image, image: {reference: '` + busybox + `', pullPolicy: Never}}
- {name: share, ` + share + `}
initContainers:
- {name: init, image: ` + busybox + `, command: [cp, /etc/passwd, /data/made], volumeMounts: [{name: data, mountPath: /data}]}
- {name: near, image: ` + busybox + `, command: [sh, -c, "` + sleepScript + `"], restartPolicy: Always}`,
		Container: fmt.Sprintf(`
ports: [{containerPort: 8080, hostPort: %d}]
resources: {limits: {memory: 64Mi, cpu: 500m}}
restartPolicy: Always
restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
volumeMounts: [{name: data, mountPath: /data}, {name: data, mountPath: /sub, subPath: sub/made}, {name: memory, mountPath: /memory}, {name: about, mountPath: /about}, {name: dir, mountPath: /dir}, {name: file, mountPath: /file}, {name: image, mountPath: /image}, {name: share, mountPath: /share}]`, m.hostPort) + watched,
		More: `
- name: side
  image: ` + busybox + `
  command: [sh, -c, "` + sleepScript + `"]
  volumeMounts: [{name: data, mountPath: /data}]
`,
	}.String()
}

func (m *mortal) create(ctx context.Context) error {
	if !m.victim.empty { // hostPath is to make what is there; once: podd may have died after it took the pod, but before it said so
		if err := os.RemoveAll(m.Dir + "/host"); err != nil {
			return err
		}
		if err := os.MkdirAll(m.Dir+"/host", 0o700); err != nil {
			return err
		}
		m.victim.empty = true
	}
	m.name = "victim"
	var wanted v1.Pod
	if err := yaml.UnmarshalStrict([]byte(m.manifest()), &wanted); err != nil {
		return err
	}
	made, err := m.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &wanted, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = m.get(ctx)
	}
	if err != nil {
		return err
	}
	m.victim.uid = made.UID
	return nil
}

// createFinite makes a victim that ends by itself.
func (m *mortal) createFinite(ctx context.Context) error {
	m.name = "victim"
	var wanted v1.Pod
	finite := pod{Name: "victim", Script: "exit 0", Spec: "volumes: [{name: data, emptyDir: {}}]", Container: "volumeMounts: [{name: data, mountPath: /data}]"}
	if err := yaml.UnmarshalStrict([]byte(finite.String()), &wanted); err != nil {
		return err
	}
	made, err := m.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, &wanted, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		made, err = m.get(ctx)
	}
	if err == nil {
		m.victim.uid = made.UID
	}
	return err
}

// hasSucceeded asks that the victim ended once, with its own exit code, and that only the bystander runs.
func (m *mortal) hasSucceeded(ctx context.Context) error {
	pod, err := m.get(ctx)
	if err != nil {
		return err
	}
	end := app(pod).State.Terminated
	if pod.Status.Phase != v1.PodSucceeded || end == nil || end.ExitCode != 0 || app(pod).RestartCount != 0 {
		return fmt.Errorf("phase %s, state %v, %d restarts", pod.Status.Phase, app(pod).State, app(pod).RestartCount)
	}
	return m.truth(ctx, m.bystander)
}

func (m *mortal) get(ctx context.Context) (*v1.Pod, error) {
	return m.client.CoreV1().Pods(metav1.NamespaceDefault).Get(ctx, m.name, metav1.GetOptions{})
}

// enter runs a command in the container, once: one that podd's death has cut is not repeated.
func (m *mortal) enter(context.Context) error {
	if m.victim.entered {
		return nil
	}
	m.victim.entered = true
	out, errs, code := m.Podctl("exec", m.name, "-c", "app", "--", "cat", "/about/name")
	if code != 0 || out != "victim" {
		return fmt.Errorf("exec: exit %d, %q, %q", code, out, errs)
	}
	return nil
}

// crash kills the process of one container instance, once. The sandbox has the name "".
func crash(container string, attempt int) func(*mortal, context.Context) error {
	return func(m *mortal, ctx context.Context) error {
		id := status.ContainerID(m.victim.uid, container, attempt)
		if m.victim.killed[id] {
			return nil
		}
		all, err := m.tasks(ctx)
		if err != nil {
			return err
		}
		p, ok := all[id]
		if !ok {
			return fmt.Errorf("container %q has no process", container)
		}
		m.victim.killed[id] = true
		return syscall.Kill(p.pid, syscall.SIGKILL)
	}
}

// fall ends, once, what the victim's liveness probe asks.
func (m *mortal) fall(context.Context) error {
	if m.victim.fallen {
		return nil
	}
	out, errs, code := m.Podctl("exec", m.name, "-c", "app", "--", "killall", "httpd")
	if code != 0 {
		return fmt.Errorf("end the server: exit %d, %q, %q", code, out, errs)
	}
	m.victim.fallen = true
	return nil
}

// renew has app end with the exit code that restarts all containers, once.
func renew(m *mortal, ctx context.Context) error {
	id := status.ContainerID(m.victim.uid, "app", 0)
	if m.victim.killed[id] {
		return nil
	}
	all, err := m.tasks(ctx)
	if err != nil {
		return err
	}
	p, ok := all[id]
	if !ok {
		return errors.New("container app has no process")
	}
	m.victim.killed[id] = true
	return syscall.Kill(p.pid, syscall.SIGUSR1)
}

func (m *mortal) delete(ctx context.Context) error {
	grace := int64(2)
	err := m.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, m.name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (m *mortal) manifestFile() string { return m.ConfigDir + "/manifests/victim.yaml" }

func (m *mortal) putManifest(ctx context.Context) error {
	m.name = "victim-" + m.NodeName
	if err := os.MkdirAll(m.Dir+"/host", 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(m.manifestFile()+".new", []byte(m.manifest()), 0o600); err != nil {
		return err
	}
	if err := os.Rename(m.manifestFile()+".new", m.manifestFile()); err != nil {
		return err
	}
	return m.settle(ctx, func(m *mortal, ctx context.Context) error {
		made, err := m.get(ctx)
		if err == nil {
			m.victim.uid = made.UID
		}
		return err
	})
}

func (m *mortal) dropManifest(context.Context) error {
	err := os.Remove(m.manifestFile())
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func (m *mortal) dropNetworkConf(t *testing.T) {
	list, err := filepath.Glob(m.ConfigDir + "/cni/net.d/*")
	if err != nil || len(list) == 0 {
		t.Fatalf("no network configuration: %v", err)
	}
	for _, f := range list {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
}

// resize gives the victim more memory and less cpu, and a limit for all of it.
func (m *mortal) resize(ctx context.Context) error {
	patch := `{"spec":{"resources":{"requests":{"cpu":"300m","memory":"128Mi"},"limits":{"cpu":"400m","memory":"256Mi"}},"containers":[{"name":"app","resources":{"requests":{"cpu":"300m","memory":"96Mi"},"limits":{"cpu":"300m","memory":"96Mi"}}}]}}`
	_, err := m.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(ctx, m.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize")
	return err
}

// isResized is nil when the status and the kernel say so, and the process ran on.
func (m *mortal) isResized(ctx context.Context) error {
	pod, err := m.get(ctx)
	if err != nil {
		return err
	}
	r := container(pod, "app").Resources
	if r == nil || r.Limits.Cpu().MilliValue() != 300 || r.Limits.Memory().Value() != 96<<20 || resizeCondition(pod, v1.PodResizeInProgress) != "" ||
		pod.Status.Resources.Limits.Cpu().MilliValue() != 400 {
		return fmt.Errorf("resources %v of %v, conditions %v", r, pod.Status.Resources, pod.Status.Conditions)
	}
	file := "/sys/fs/cgroup/cpu/%s/cpu.cfs_quota_us"
	if unified() {
		file = "/sys/fs/cgroup/%s/cpu.max"
	}
	dir := filepath.Join(m.CgroupParent, "kubepods", "burstable", "pod"+string(pod.UID))
	wants := map[string]string{"": "40000"}
	for _, c := range status.Statuses(&pod.Status) {
		if c.Name == "app" {
			wants[strings.TrimPrefix(c.ContainerID, "containerd://")] = "30000"
		} else if c.State.Running != nil {
			wants[strings.TrimPrefix(c.ContainerID, "containerd://")] = "40000"
		}
	}
	for id, want := range wants {
		quota, err := os.ReadFile(fmt.Sprintf(file, filepath.Join(dir, id)))
		if err != nil || !strings.HasPrefix(string(quota), want) {
			return fmt.Errorf("quota %s of %s, want %s: %w", quota, id, want, err)
		}
	}
	return lives(0, 0)(m, ctx)
}

// claim makes a claim, once, for which podd makes a volume.
func (m *mortal) claim(ctx context.Context) error {
	if m.victim.claimed {
		return nil
	}
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "victim"}, Spec: v1.PersistentVolumeClaimSpec{
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		Resources:   v1.VolumeResourceRequirements{Requests: v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Mi")}}}}
	_, err := m.client.CoreV1().PersistentVolumeClaims(metav1.NamespaceDefault).Create(ctx, c, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// isClaimed asks that the claim was bound, and that nothing is left of it and of its volume after its deletion.
func (m *mortal) isClaimed(ctx context.Context) error {
	claims := m.client.CoreV1().PersistentVolumeClaims(metav1.NamespaceDefault)
	c, err := claims.Get(ctx, "victim", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && m.victim.claimed:
		left, err := os.ReadDir(filepath.Join(m.Root, "claims"))
		if err != nil || len(left) > 0 {
			return fmt.Errorf("directories of volumes: %v, %w", left, err)
		}
		return lives(0, 0)(m, ctx)
	case err != nil:
		return err
	case c.Status.Phase != v1.ClaimBound:
		return fmt.Errorf("the claim is %s", c.Status.Phase)
	}
	m.victim.claimed = true
	if err := claims.Delete(ctx, "victim", metav1.DeleteOptions{}); err != nil {
		return err
	}
	return errors.New("the claim is to go")
}

// squat puts a container of somebody else where the next instance of app is to be.
func (m *mortal) squat(ctx context.Context) error {
	return m.plant(ctx, status.ContainerID(m.victim.uid, "app", 1))
}

// What has to be right.

// lives asks that the victim is ready, that its containers were restarted exactly so often, that it serves, and that
// containerd runs what the API says and nothing else. Its init containers are restarted when side is: with the sandbox, or
// with all.
func lives(app, side int32) func(*mortal, context.Context) error {
	return func(m *mortal, ctx context.Context) error {
		pod, err := m.get(ctx)
		if err != nil {
			return err
		}
		if !ready(pod) {
			return fmt.Errorf("not ready")
		}
		for name, n := range map[string]int32{"app": app, "side": side} {
			c := container(pod, name)
			if c.RestartCount != n || c.State.Running == nil {
				return fmt.Errorf("container %s: %d restarts, want %d, state %v", name, c.RestartCount, n, c.State)
			}
		}
		init, near := initStatus(pod, "init"), initStatus(pod, "near")
		if end := init.State.Terminated; init.RestartCount != side || end == nil || end.ExitCode != 0 {
			return fmt.Errorf("container init: %d restarts, want %d, state %v", init.RestartCount, side, init.State)
		}
		if near.RestartCount != side || near.State.Running == nil {
			return fmt.Errorf("container near: %d restarts, want %d, state %v", near.RestartCount, side, near.State)
		}
		if err := m.truth(ctx, m.bystander, pod); err != nil {
			return err
		}
		if err := m.serves(pod.Status.PodIP); err != nil {
			return err
		}
		return m.rests(ctx)
	}
}

// rests tells whether podd has taken away what has ended, which it does when the next instance runs already: it is to die in
// that before another stage begins.
func (m *mortal) rests(ctx context.Context) error {
	all, err := m.client.CoreV1().RESTClient().Get().AbsPath("/debug/podd/goroutines").DoRaw(ctx)
	if err == nil && bytes.Contains(all, []byte("podd/runtime.(*host).remove(")) {
		err = errors.New("something is being taken away")
	}
	return err
}

// serves connects to the victim, at its own address and at the port of the host.
func (m *mortal) serves(ip string) error {
	for _, address := range []string{net.JoinHostPort(ip, "8080"), fmt.Sprintf("127.0.0.1:%d", m.hostPort)} {
		c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get("http://" + address + "/")
		if err != nil {
			return err
		}
		_ = r.Body.Close()
	}
	return nil
}

func (m *mortal) isGone(ctx context.Context) error {
	_, err := m.get(ctx)
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("not gone: %v", err)
	}
	m.victim.uid = ""
	return m.truth(ctx, m.bystander)
}

// isCleared is isGone for a pod whose object goes before the host is cleared.
func (m *mortal) isCleared(ctx context.Context) error {
	left, err := os.ReadDir(filepath.Join(m.State, "pods"))
	if err != nil {
		return err
	}
	if len(left) != 1 {
		return fmt.Errorf("%d pods have something on the host, want the bystander only", len(left))
	}
	return m.isGone(ctx)
}

// truth compares what containerd runs with what the API says of all pods there are.
func (s *suite) truth(ctx context.Context, pods ...*v1.Pod) error {
	all, err := s.tasks(ctx)
	if err != nil {
		return err
	}
	n := 0
	for _, pod := range pods {
		n++ // its sandbox
		for _, c := range status.Statuses(&pod.Status) {
			if slices.ContainsFunc(pod.Status.InitContainerStatuses, func(i v1.ContainerStatus) bool {
				return i.Name == c.Name && i.State.Terminated != nil
			}) {
				continue
			}
			n++
			id := strings.TrimPrefix(c.ContainerID, "containerd://")
			if p, ok := all[id]; !ok || !p.running {
				return fmt.Errorf("container %s/%s: not running in containerd", pod.Name, c.Name)
			}
		}
	}
	if len(all) != n {
		return fmt.Errorf("containerd has %d tasks, want %d", len(all), n)
	}
	return nil
}

// checkBystander asks that the other pod's processes are the same ones as ever.
func (m *mortal) checkBystander(t *testing.T) {
	t.Helper()
	now, err := m.tasks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id, p := range m.processes {
		if now[id] != p {
			t.Errorf("the bystander's container %s is %+v, was %+v", id, now[id], p)
		}
	}
	pod := m.until(t, "bystander", "ready", ready)
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount != 0 {
			t.Errorf("the bystander's container %s was restarted", c.Name)
		}
	}
}
