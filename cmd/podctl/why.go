package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
	"sigs.k8s.io/yaml"

	apihistory "podd/api/history"
)

// why says in plain words what holds a pod back, from what the API says about it, its status and its events, and then what
// happened to it. causes.go knows what the former mean, timeline.go shows the latter.
func (p *podctl) why(f cmdutil.Factory) *cobra.Command {
	asked, everywhere := question{}, false
	cmd := &cobra.Command{
		Use:   "why [POD...]",
		Short: "Say why a pod is not running or not ready, and what happened to it",
		Long: "Say in plain words why a pod is not running, is not ready, was restarted or was refused, and what to try next; then what\n" +
			"happened to it: pulls, sandbox, network, mounts, hooks, probes, exits, and until when what is held back. podd remembers that\n" +
			"over its own restarts, and for an hour after the pod was deleted.\n\n" +
			"Without a name it looks at every pod of the namespace and has a line for each that something is wrong with. Those that are\n" +
			"new and have met with no trouble so far are only named.",
		Example: `  podctl why web
  podctl why web --since=10m
  podctl why web -o json
  podctl why -n kube-system
  podctl why -A`,
		ValidArgsFunction: completion.PodResourceNameCompletionFunc(f),
		Run: func(_ *cobra.Command, names []string) {
			ctx, stop := interruptible()
			defer stop()
			namespace, _, err := f.ToRawKubeConfigLoader().Namespace()
			cmdutil.CheckErr(err)
			config, err := p.client.ToRESTConfig()
			cmdutil.CheckErr(err)
			api, err := corev1.NewForConfig(config)
			cmdutil.CheckErr(err)
			cmdutil.CheckErr(asked.check())
			asked.ctx, asked.api, asked.namespace = ctx, api, namespace
			if everywhere {
				asked.namespace = metav1.NamespaceAll
			}
			switch {
			case everywhere && len(names) > 0:
				cmdutil.CheckErr(fmt.Errorf("-A asks about the pods of all namespaces: leave out %s, or name its namespace with -n", strings.Join(names, " ")))
			case len(names) == 0 && asked.output != "":
				reports, err := p.everyReport(asked)
				cmdutil.CheckErr(err)
				cmdutil.CheckErr(asked.print(p.shown.Out, reports))
			case len(names) == 0:
				cmdutil.CheckErr(p.whyAll(ctx, api, asked.namespace))
			default:
				cmdutil.CheckErr(p.whySome(asked, names))
			}
		},
	}
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "the pods of all namespaces")
	cmd.Flags().StringVarP(&asked.output, "output", "o", "", "json or yaml; nothing for a screen to read")
	cmd.Flags().DurationVar(&asked.since, "since", 0, "only what happened in this time, such as 10m")
	cmd.Flags().StringVar(&asked.uid, "uid", "", "of the pods of this name that came after one another, the one with this uid")
	return cmd
}

// question is what why is asked for.
type question struct {
	output, uid string
	since       time.Duration

	ctx       context.Context
	api       corev1.CoreV1Interface
	namespace string
}

func (q question) check() error {
	switch {
	case q.output != "" && q.output != "json" && q.output != "yaml":
		return fmt.Errorf("unknown output format %q: json and yaml are known", q.output)
	case q.since < 0:
		return fmt.Errorf("--since=%s: it cannot be negative", q.since)
	}
	return nil
}

// report is what why says of one name.
type report struct {
	Namespace string           `json:"namespace"`
	Name      string           `json:"name"`
	UID       string           `json:"uid,omitempty"` // of the pod that is there
	Fine      bool             `json:"fine"`          // it is there, and nothing is wrong with it
	Starting  bool             `json:"starting"`      // it is new, and nothing has gone wrong so far
	Headline  string           `json:"headline"`
	Causes    []cause          `json:"causes"`
	History   []apihistory.Pod `json:"history"` // of all pods that had the name, the newest last

	events []v1.Event
}

// print writes reports for programs.
func (q question) print(out io.Writer, reports []report) error {
	text, err := json.MarshalIndent(map[string]any{"pods": reports}, "", "  ")
	if err == nil && q.output == "yaml" {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, strings.TrimSuffix(string(text), "\n"))
	return err
}

// whySome tells of the pods that are named. Of what nothing is known is said at the end.
func (p *podctl) whySome(q question, names []string) error {
	reports := []report{}
	var errs []error
	for _, name := range names {
		r, err := p.lookInto(q, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reports = append(reports, r)
	}
	if q.output != "" {
		errs = append(errs, q.print(p.shown.Out, reports))
		return errors.Join(errs...)
	}
	for i, r := range reports {
		if i > 0 {
			fmt.Fprintln(p.shown.Out)
		}
		r.tell(p.shown.Out, time.Now())
	}
	return errors.Join(errs...)
}

// everyReport is that of every pod of the namespace, or of all.
func (p *podctl) everyReport(q question) ([]report, error) {
	pods, err := q.api.Pods(q.namespace).List(q.ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	reports := []report{}
	for _, pod := range pods.Items {
		q.namespace = pod.Namespace
		r, err := p.lookInto(q, pod.Name)
		if err != nil {
			return nil, err
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// whyAll tells of the pods of a namespace, or of all with their namespaces, that are not as they should be.
func (p *podctl) whyAll(ctx context.Context, api corev1.CoreV1Interface, namespace string) error {
	pods, err := api.Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	place, start := rooms{api: api}, []string(nil)
	var told []summary
	for i := range pods.Items {
		pod := &pods.Items[i]
		events, err := eventsOf(ctx, api, pod.Namespace, "Pod", pod.Name, pod.UID)
		if err != nil {
			return err
		}
		claims, err := claimsOf(ctx, api, pod)
		if err != nil {
			return err
		}
		past := p.pastOf(question{ctx: ctx, namespace: pod.Namespace, uid: string(pod.UID)}, pod)
		found := diagnose(pod, facts{events: events, past: past, claims: claims, room: place.of(ctx, pod)}, time.Now())
		old := oldContentOf(pod, past)
		if found.fine && len(old) == 0 {
			continue
		}
		name := pod.Name
		if namespace == metav1.NamespaceAll {
			name = pod.Namespace + "/" + name
		}
		if found.starting && len(old) == 0 {
			start = append(start, name)
			continue
		}
		told = append(told, summary{name, "podctl why " + pod.Name + inNamespace(pod), found.headline, append(found.causes, old...)})
	}
	where := "namespace " + namespace
	if namespace == metav1.NamespaceAll {
		where = "any namespace"
	}
	switch {
	case len(pods.Items) == 0:
		if _, err := api.Namespaces().Get(ctx, namespace, metav1.GetOptions{}); namespace != metav1.NamespaceAll && apierrors.IsNotFound(err) {
			return err
		}
		fmt.Fprintf(p.shown.Out, "There are no pods in %s.\n", where)
	case len(told) == 0:
		fmt.Fprintf(p.shown.Out, "Nothing is wrong with the %s in %s.\n", counted(len(pods.Items)), where)
	default:
		tellAll(p.shown.Out, told)
	}
	if len(told) > 0 && len(start) > 0 {
		fmt.Fprintln(p.shown.Out)
	}
	if n := len(start); n > 0 {
		const most = 5
		names := strings.Join(start[:min(n, most)], ", ")
		if n > most {
			names += fmt.Sprintf(" and %d more", n-most)
		}
		fmt.Fprintf(p.shown.Out, "Still starting: %s.\n", names)
	}
	return nil
}

// summary is what why says of a pod among others.
type summary struct {
	name, ask string // ask is the command that says more
	headline  string
	causes    []cause
}

// tellAll is a line for each pod, and how to learn more.
func tellAll(out io.Writer, pods []summary) {
	const longest = 40 // of names that are made as wide as each other
	width := 0
	for _, s := range pods {
		width = max(width, min(len(s.name), longest))
	}
	for _, s := range pods {
		line := fmt.Sprintf("%-*s  ", width, s.name)
		text, more := strings.TrimSuffix(s.headline, "."), ""
		if len(s.causes) > 0 {
			text, _, _ = strings.Cut(text, " (")
			text += ": " + s.causes[0].brief(s.headline)
		}
		if n := len(s.causes) - 1; n > 0 {
			more = fmt.Sprintf(" (%d more)", n)
		}
		fmt.Fprintln(out, line+cleaned(shortened(text, max(screenWidth-len(line)-len(more), screenWidth/3)))+more)
	}
	if len(pods) == 1 {
		fmt.Fprintf(out, "\n-> %s says more, and what to do.\n", pods[0].ask)
		return
	}
	fmt.Fprintf(out, "\n-> %s says more of the first, and what to do.\n", pods[0].ask)
}

func counted(pods int) string {
	if pods == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", pods)
}

// pastOf is what happened to a pod, as far as its status does not tell: nil of one of which nothing has ended and whose volumes
// follow nothing, and if who asks may not see it.
func (p *podctl) pastOf(q question, pod *v1.Pod) []apihistory.Entry {
	over := func(s v1.ContainerStatus) bool {
		return s.State.Terminated != nil || s.LastTerminationState.Terminated != nil
	}
	if !slices.ContainsFunc(statuses(pod), over) && !slices.ContainsFunc(pod.Spec.Volumes, follows) {
		return nil
	}
	past, err := p.history(q, pod.Name)
	if err != nil || len(past) == 0 {
		return nil
	}
	return past[len(past)-1].Entries
}

// follows tells whether the content of a volume changes with other objects.
func follows(v v1.Volume) bool { return v.ConfigMap != nil || v.Secret != nil || v.Projected != nil }

// oldContentOf is what oldContent says of a pod that runs.
func oldContentOf(pod *v1.Pod, past []apihistory.Entry) []cause {
	if pod.Status.Phase != v1.PodRunning || !slices.ContainsFunc(pod.Spec.Volumes, follows) {
		return nil
	}
	return oldContent(past, inNamespace(pod))
}

// lookInto finds out about one pod, or about what was once called like it.
func (p *podctl) lookInto(q question, name string) (report, error) {
	if kind, rest, ok := strings.Cut(name, "/"); ok {
		if !slices.Contains([]string{"pod", "pods", "po"}, kind) {
			return report{}, fmt.Errorf("%s: why is about pods: name a pod", name)
		}
		name = rest
	}
	r := report{Namespace: q.namespace, Name: name, Causes: []cause{}}
	pod, err := q.api.Pods(q.namespace).Get(q.ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return r, err
	}
	there := err == nil && (q.uid == "" || q.uid == string(pod.UID))
	if there {
		r.UID = string(pod.UID)
	}
	if r.History, err = p.history(q, name); err != nil {
		return r, err
	}
	if r.events, err = eventsOf(q.ctx, q.api, q.namespace, "Pod", name, cmp.Or(r.UID, q.uid)); err != nil {
		return r, err
	}
	if there {
		claims, err := claimsOf(q.ctx, q.api, pod)
		if err != nil {
			return r, err
		}
		var past []apihistory.Entry
		if n := len(r.History); n > 0 && r.History[n-1].UID == r.UID {
			past = r.History[n-1].Entries
		}
		d := diagnose(pod, facts{events: r.events, past: past, claims: claims, room: (&rooms{api: q.api}).of(q.ctx, pod)}, time.Now())
		r.Fine, r.Starting, r.Headline = d.fine, d.starting, d.headline
		r.Causes = slices.Concat(r.Causes, d.causes, oldContentOf(pod, past))
		q.shorten(r.History)
		return r, nil
	}
	q.shorten(r.History)
	switch n := len(r.History); {
	case n > 0 && r.History[n-1].Deleted != nil:
		r.Headline = "is not there: it was deleted " + duration.HumanDuration(time.Since(*r.History[n-1].Deleted)) + " ago. This is what happened to it."
	case n > 0:
		r.Headline = "is not there, and podd is taking away what is left of it. This is what happened to it."
	case slices.ContainsFunc(r.events, func(e v1.Event) bool { return e.Reason == "FailedScheduling" }):
		r.Headline = "is not there: it was deleted before it had a node. This is what was said about it in the last hour."
	case len(r.events) > 0:
		r.Headline = "is not there: it was deleted, or refused. This is what was said about it in the last hour."
	case q.uid != "":
		return r, fmt.Errorf("nothing is known of a pod %s with uid %s in namespace %s", name, q.uid, q.namespace)
	default:
		return r, fmt.Errorf("there is no pod %s in namespace %s, and nothing is known of one in the last hour", name, q.namespace)
	}
	return r, nil
}

// history asks podd what happened to the pods of a name. A podd that keeps none has nothing to say.
func (p *podctl) history(q question, name string) ([]apihistory.Pod, error) {
	query := url.Values{"namespace": {q.namespace}, "pod": {name}}
	if q.uid != "" {
		query.Set("uid", q.uid)
	}
	res, err := p.client.request(q.ctx, http.MethodGet, apihistory.Path, query, nil)
	if err != nil {
		if strings.HasPrefix(err.Error(), "there is nothing at "+apihistory.Path) {
			return []apihistory.Pod{}, nil
		}
		return nil, fmt.Errorf("ask for the history of pod %s: %w", name, err)
	}
	defer res.Body.Close()
	var list apihistory.List
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil {
		return nil, fmt.Errorf("ask for the history of pod %s: %w", name, err)
	}
	return list.Pods, nil
}

// shorten leaves of histories what is young enough.
func (q question) shorten(pods []apihistory.Pod) {
	if q.since <= 0 {
		return
	}
	from := time.Now().Add(-q.since)
	for i := range pods {
		pods[i].Entries = slices.DeleteFunc(pods[i].Entries, func(e apihistory.Entry) bool {
			return e.Time.Before(from) && (e.Last == nil || e.Last.Before(from))
		})
	}
}

// eventsOf is the events about an object, oldest first.
func eventsOf(ctx context.Context, api corev1.CoreV1Interface, namespace, kind, name string, uid any) ([]v1.Event, error) {
	about := fields.Set{"involvedObject.name": name, "involvedObject.kind": kind}
	if id := fmt.Sprint(uid); id != "" {
		about["involvedObject.uid"] = id
	}
	list, err := api.Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: about.AsSelector().String()})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list.Items, func(a, b v1.Event) int { return lastSeen(a).Compare(lastSeen(b)) })
	return list.Items, nil
}

// lastSeen is when an event was last, whichever API it was written with.
func lastSeen(e v1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// tell prints a diagnosis with the last events. whole is where that of its causes is which a screen has no room for.
func tell(out io.Writer, name string, d diagnosis, events []v1.Event, whole string) {
	tellCauses(out, name, d.headline, d.causes, whole)
	if !d.fine {
		tellEvents(out, events)
	}
}

// tellCauses prints causes in the lines of a screen that are for them: where they are many, the first ones in full, each of the others
// as a line, and what has no room for that as a number.
func tellCauses(out io.Writer, name, headline string, causes []cause, whole string) {
	fmt.Fprintf(out, "%s %s\n", name, headline)
	var all [][]string
	for most := causeLines; most >= leastCause; most-- {
		all = nil
		for _, c := range causes {
			all = append(all, c.lines(most, whole))
		}
		if len(slices.Concat(all...)) <= causesLines {
			break
		}
	}
	full, used := 0, 0
	for full < len(all) {
		used += len(all[full])
		if left := len(all) - full - 1; full > 0 && used+left+min(left, 1) > causesLines { // those as lines come after an empty one
			break
		}
		full++
	}
	lines := slices.Concat(all[:full]...)
	if full < len(all) {
		lines = append(lines, "")
	}
	for i, c := range causes[full:] {
		if left := len(causes) - full - i; left > 1 && len(lines)+1 >= causesLines {
			lines = append(lines, moreOf(left, whole))
			break
		}
		lines = append(lines, shortened(c.brief(""), screenWidth-2))
	}
	for _, line := range lines {
		fmt.Fprintln(out, strings.TrimRight("  "+line, " "))
	}
}

// lines are those of one cause, after an empty one: what is the matter, with at most so many lines of what was said of it, and what to do.
func (c cause) lines(most int, whole string) []string {
	lines := []string{""}
	what, said, _ := strings.Cut(c.what, "\n")
	head := wrapped(what, screenWidth-2)
	if len(head) > most || strings.TrimSpace(said) == "" {
		lines = append(lines, cut(head, most, whole)...)
	} else {
		lines = append(lines, head...)
	}
	if said = strings.TrimSpace(said); said != "" {
		for _, line := range cut(wrapped(said, screenWidth-4), most, whole) {
			lines = append(lines, "  "+line)
		}
	}
	if c.next != "" {
		for i, line := range wrapped(c.next, screenWidth-5) {
			lines = append(lines, []string{"-> ", "   "}[min(i, 1)]+line)
		}
	}
	return lines
}

// What a line has no room for: that a container was restarted, where the headline has it, when it is started again, and who said what follows.
var (
	restarts = regexp.MustCompile(`^(Container \S+) was restarted .*, and again `)
	restart  = regexp.MustCompile(`\. It is started again in [0-9a-z]+\.`)
	quotes   = regexp.MustCompile(`\.? (It said|The runtime says):\n`)
)

// brief is what is the matter, for a line.
func (c cause) brief(headline string) string {
	text := quotes.ReplaceAllString(restart.ReplaceAllString(c.what, "."), ": ")
	if strings.Contains(headline, "again and again") {
		text = restarts.ReplaceAllString(text, "$1 ")
	}
	return text
}

// moreOf tells of what is left out. whole is where it is.
func moreOf(n int, whole string) string {
	if whole != "" {
		whole = ": " + whole
	}
	return fmt.Sprintf("%d more%s", n, whole)
}

// shortened is text as one line of at most so many columns.
func shortened(text string, width int) string {
	line := []rune(strings.Join(strings.Fields(text), " "))
	if len(line) <= width {
		return string(line)
	}
	return strings.TrimRight(string(line[:width-3]), " ") + "..."
}

// cut leaves of lines at most so many, of which there are three and more: what was done is said at the beginning, and what came
// of it at the end. whole is where the others are; empty if nowhere.
func cut(lines []string, most int, whole string) []string {
	left := len(lines) - most
	if left <= 0 {
		return lines
	}
	first := most / 2
	said := fmt.Sprintf("... %d more lines", left+1)
	if whole != "" {
		said += ": " + whole
	}
	return slices.Concat(lines[:first], []string{said}, lines[first+left+1:])
}

// wrapped is text in lines of a width. A command with an argument in quotes stays whole.
func wrapped(text string, width int) []string {
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.Contains(line, " -p '") {
			lines = append(lines, line)
			continue
		}
		lines = append(lines, folded(line, width, math.MaxInt)...)
	}
	return lines
}

// tellEvents shows the last events, each with the container that it is about, in the columns of a screen.
func tellEvents(out io.Writer, events []v1.Event) {
	events = slices.DeleteFunc(slices.Clone(events), func(e v1.Event) bool { return aside(e.Reason, e.Message) })
	if len(events) == 0 {
		return
	}
	const most = 6
	fmt.Fprintln(out, "\n  Events:")
	events = events[max(0, len(events)-most):]
	width := 0
	for _, e := range events {
		width = max(width, len(containerOf(e)))
	}
	for _, e := range events {
		start := fmt.Sprintf("  %6s ago  %-7s  ", duration.HumanDuration(time.Since(lastSeen(e))), cmp.Or(e.Type, "-"))
		if width > 0 {
			start += fmt.Sprintf("%-*s  ", width, containerOf(e))
		}
		text := e.Reason + ": " + strings.ReplaceAll(eventWords(e.Message), "\n", " ")
		if n := max(e.Count, seriesCount(e)); n > 1 {
			text += fmt.Sprintf(" (%d times)", n)
		}
		printFolded(out, start, cleaned(text))
	}
}

// printFolded prints text behind start, in the columns of a screen and at most entryLines lines.
func printFolded(out io.Writer, start, text string) {
	room := max(screenWidth-utf8.RuneCountInString(start), screenWidth/2)
	for n, line := range folded(text, room, entryLines) {
		if n > 0 {
			start = strings.Repeat(" ", utf8.RuneCountInString(start))
		}
		fmt.Fprintln(out, strings.TrimRight(start+line, " "))
	}
}

// containerOf is the container that an event is about, empty if it is about the pod.
func containerOf(e v1.Event) string {
	_, name, _ := strings.Cut(strings.TrimSuffix(e.InvolvedObject.FieldPath, "}"), "{")
	return name
}

func seriesCount(e v1.Event) int32 {
	if e.Series == nil {
		return 0
	}
	return e.Series.Count
}
