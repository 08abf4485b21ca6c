package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	apihistory "podd/api/history"
)

const (
	screenWidth = 100 // columns
	screenLines = 50  // of one pod, if there is not much wrong with it
	leastLines  = 20  // of what happened to it, whatever is wrong
	entryLines  = 4   // of one entry
	causesLines = 27  // of all causes
	causeLines  = 6   // of what was said of one
	leastCause  = 3   // of that, if there are many
)

// inFull is where all is that a screen has no room for.
const inFull = "-o yaml shows them"

// tell shows a report on a screen: the diagnosis, then what happened to the newest pod of the name, then which others there were.
func (r report) tell(out io.Writer, now time.Time) {
	var said strings.Builder
	tellCauses(&said, r.Name, r.Headline, r.Causes, inFull)
	fmt.Fprint(out, said.String())
	newest := len(r.History) - 1
	if newest < 0 || r.UID != "" && r.History[newest].UID != r.UID {
		if !r.Fine {
			tellEvents(out, r.events)
		}
		newest++ // what is known is of others
	} else {
		fmt.Fprintf(out, "\n  What happened:\n")
		timeline(out, unsaid(r.History[newest].Entries, r.Causes), now, screenLines-2-strings.Count(said.String(), "\n"))
	}
	for i, pod := range r.History[:newest] {
		if i == 0 {
			fmt.Fprintln(out)
		}
		until := "and is being taken away"
		if pod.Deleted != nil {
			until = "until " + duration.HumanDuration(now.Sub(*pod.Deleted)) + " ago"
		}
		fmt.Fprintf(out, "  Another pod of this name was there %s:\n    podctl why %s%s --uid=%s\n", until, r.Name, inNamespace(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace}}), pod.UID)
	}
}

// unsaid is entries without what the causes quote already of what a container said when it ended.
func unsaid(entries []apihistory.Entry, causes []cause) []apihistory.Entry {
	entries = slices.Clone(entries)
	for i, e := range entries {
		said := strings.TrimSpace(e.Message)
		if e.What == apihistory.Exited && slices.ContainsFunc(causes, func(c cause) bool { return strings.HasSuffix(c.what, "\n"+said) }) {
			entries[i].Message = ""
		}
	}
	return entries
}

// aside tells whether an event is about a default that nearly every pod here has and that holds none back: without a cluster
// DNS the kubelet says the same of each pod, and whether the manifest asked for it is not known. It stays among the events.
func aside(reason, message string) bool {
	return reason == "MissingClusterDNS" && strings.Contains(message, " "+string(v1.DNSClusterFirst)+" ")
}

// timeline shows entries, one after the other, in so many lines, but no fewer than leastLines: where they are more, the first
// ones and the last.
func timeline(out io.Writer, entries []apihistory.Entry, now time.Time, most int) {
	entries = slices.DeleteFunc(slices.Clone(entries), func(e apihistory.Entry) bool { return e.What == apihistory.Event && aside(e.Reason, e.Message) })
	if len(entries) == 0 {
		fmt.Fprintln(out, "  nothing in this time")
	}
	width := 0
	for _, e := range entries {
		width = max(width, utf8.RuneCountInString(who(e)))
	}
	shown, lines := make([]string, len(entries)), 0
	for i, e := range entries {
		stamp := e.Time.Local().Format("15:04:05.000")
		if y, d := e.Time.Local().YearDay(), now.Local().YearDay(); y != d {
			stamp = e.Time.Local().Format("Jan _2 15:04")
		}
		start := fmt.Sprintf("  %s  ", stamp)
		if width > 0 {
			start += fmt.Sprintf("%-*s  ", width, who(e))
		}
		var text strings.Builder
		printFolded(&text, start, happened(e))
		shown[i] = text.String()
		lines += strings.Count(shown[i], "\n")
	}
	first, last := len(shown), len(shown)
	if most = max(most, leastLines); lines > most {
		backwards := slices.Clone(shown)
		slices.Reverse(backwards)
		first = fitting(shown, most/3)
		last -= fitting(backwards, most-most/3-1)
	}
	for _, text := range shown[:first] {
		fmt.Fprint(out, text)
	}
	if last > first {
		fmt.Fprintf(out, "  %d more: %s\n", last-first, inFull)
	}
	for _, text := range shown[last:] {
		fmt.Fprint(out, text)
	}
}

// fitting is how many texts go into so many lines.
func fitting(texts []string, lines int) int {
	n := 0
	for _, text := range texts {
		if lines -= strings.Count(text, "\n"); lines < 0 {
			break
		}
		n++
	}
	return n
}

// who is what an entry is about: a container with its attempt, nothing for the pod.
func who(e apihistory.Entry) string {
	name := e.Container
	if name != "" && e.Attempt > 0 && e.What != apihistory.BackOff {
		name = fmt.Sprintf("%s #%d", name, e.Attempt)
	}
	return name
}

// steps of podd in words.
var stepNames = map[string]string{
	apihistory.Mounts: "the mounts", apihistory.Network: "the network", apihistory.Sandbox: "the sandbox", apihistory.Pulled: "the pull", apihistory.Created: "create",
	apihistory.Started: "start", apihistory.Resized: "the resize", apihistory.Restart: "the restart of all containers", apihistory.Condemn: "the end",
}

// happened is an entry in words.
func happened(e apihistory.Entry) string {
	text := words(e)
	if e.Message != "" && e.What != apihistory.Event {
		text += ": " + e.Message
	}
	if e.Count > 1 && e.Last != nil {
		text = fmt.Sprintf("%d times until %s, the last: %s", e.Count, e.Last.Local().Format("15:04:05"), text)
		if e.What == apihistory.LeftOut {
			text = fmt.Sprintf("%d more things happened until %s", e.Count, e.Last.Local().Format("15:04:05"))
		}
	}
	return cleaned(text)
}

func words(e apihistory.Entry) string {
	if e.Failed && e.What != apihistory.Volume {
		return stepFailed(e)
	}
	switch e.What {
	case apihistory.Volume:
		if e.Failed {
			return "volume " + e.Reason + " shows old content"
		}
		return "volume " + e.Reason + " follows its sources again"
	case apihistory.Daemon:
		return "podd was started again and goes on with it"
	case apihistory.Mounts:
		return "volumes and files are there" + took(e)
	case apihistory.Network:
		return "network " + strings.Join(e.IPs, ", ") + took(e)
	case apihistory.Sandbox:
		if e.Attempt > 0 {
			return fmt.Sprintf("sandbox #%d runs%s", e.Attempt, took(e))
		}
		return "sandbox runs" + took(e)
	case apihistory.Pulling:
		return "pulling " + e.Image
	case apihistory.Pulled:
		return fmt.Sprintf("pulled %s, %s%s", e.Image, bytesOf(e.Bytes), took(e))
	case apihistory.Created, apihistory.Started:
		return e.What + took(e)
	case apihistory.Exited:
		return exited(e)
	case apihistory.BackOff:
		return heldBack(e)
	case apihistory.Hook:
		return e.Reason + " hook has ended" + took(e)
	case apihistory.Condemn:
		return "podd ends it"
	case apihistory.Restart:
		return "all containers are restarted"
	case apihistory.Resized:
		return "resized" + took(e)
	case apihistory.Ready, apihistory.Delete:
		return toBe(e)
	case apihistory.Unready:
		return "the pod is not ready any more"
	case apihistory.Event:
		return e.Reason + ": " + eventWords(e.Message)
	case apihistory.Slow:
		return fmt.Sprintf("%s takes long: %s so far", strings.TrimSpace(e.Reason+" "+e.Image), spell(e.Seconds))
	case apihistory.Verdict:
		return "the pod has ended, " + e.Reason
	case apihistory.Unmade:
		return e.Reason + " taken away" + took(e)
	case apihistory.Deleted:
		return "the host has let go of it"
	}
	return e.What + " " + e.Reason
}

// eventWords is the message of an event in words: those about a resize end with what is asked for as JSON.
func eventWords(message string) string {
	message = strings.TrimSpace(message)
	said, summary, ok := strings.Cut(message, ": {")
	if !ok || !strings.HasPrefix(said, "Pod resize ") {
		return message
	}
	type container struct {
		Name      string
		Resources v1.ResourceRequirements
	}
	var asked struct {
		Resources                  *v1.ResourceRequirements // of the pod as a whole
		InitContainers, Containers []container
		Error                      string
	}
	if json.Unmarshal([]byte("{"+summary), &asked) != nil { // it was too long for an event, which lacks its middle
		if at := strings.LastIndex(summary, `"error":`); at >= 0 && json.Unmarshal([]byte("{"+summary[at:]), &asked) == nil {
			said += ": " + asked.Error
		}
		return said
	}
	if asked.Error != "" {
		said += ": " + asked.Error
	}
	if asked.Resources != nil {
		said += "; the pod: " + resourceWords(*asked.Resources)
	}
	for _, c := range append(asked.InitContainers, asked.Containers...) {
		said += "; " + c.Name + ": " + resourceWords(c.Resources)
	}
	return said
}

// resourceWords is what is asked for, by resource.
func resourceWords(r v1.ResourceRequirements) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) { // limits are requests as well
		asked := r.Requests[name]
		part := fmt.Sprintf("%s %s", name, asked.String())
		if limit, ok := r.Limits[name]; ok {
			part += " (limit " + limit.String() + ")"
		}
		parts = append(parts, part)
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing asked for")
}

func stepFailed(e apihistory.Entry) string {
	name := e.Reason
	if known, ok := stepNames[e.What]; ok {
		name = known
	}
	switch e.What {
	case apihistory.Hook:
		name += " hook"
	case apihistory.Unmade:
		name = "taking away of " + e.Reason
	}
	if e.Image != "" {
		name += " of " + e.Image
	}
	return name + " failed" + took(e)
}

func toBe(e apihistory.Entry) string {
	switch {
	case e.What == apihistory.Ready:
		return "the pod is ready"
	case e.Until == nil:
		return "the pod is to go"
	case e.Until.Sub(e.Time) < time.Second:
		return "the pod is to go at once"
	}
	return fmt.Sprintf("the pod is to go, until %s at the latest", e.Until.Local().Format("15:04:05"))
}

func heldBack(e apihistory.Entry) string {
	what := "start"
	if e.Image != "" {
		what = "pull of " + e.Image
	}
	until := ""
	if e.Until != nil {
		until = " until " + e.Until.Local().Format("15:04:05")
	}
	return "back-off: the next " + what + " is held back" + until
}

func exited(e apihistory.Entry) string {
	if e.Exit == nil {
		return "ended"
	}
	text := fmt.Sprintf("exited with code %d", e.Exit.Code)
	if meaning := exitMeaning(e.Exit.Code, e.Exit.Signal); meaning != "" {
		text += " (" + meaning + ")"
	}
	if e.Seconds > 0 {
		text += " after " + spell(e.Seconds)
	}
	switch e.Exit.Reason {
	case "Completed", "Error", "":
	default:
		text += ", " + e.Exit.Reason
	}
	return text
}

func took(e apihistory.Entry) string {
	if e.Seconds == 0 {
		return ""
	}
	return " in " + spell(e.Seconds)
}

func spell(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Millisecond).String()
}

// cleaned is text without what would drive a terminal; what comes from pods is in it.
func cleaned(text string) string {
	var out bytes.Buffer
	_, _ = (&cleaner{w: &out}).Write([]byte(text + "\n"))
	return strings.TrimSpace(strings.ReplaceAll(out.String(), "\t", "    "))
}

// folded breaks text into lines of a width, at most so many of them, of which there are two and more. Where there are more, the
// first and the last are left: what went wrong is said at the end.
func folded(text string, width, most int) []string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		for runes := []rune(line); ; {
			if len(runes) <= width {
				lines = append(lines, string(runes))
				break
			}
			at := width
			for i := width; i > width/2; i-- {
				if runes[i] == ' ' {
					at = i
					break
				}
			}
			lines = append(lines, string(runes[:at]))
			runes = []rune(strings.TrimLeft(string(runes[at:]), " "))
		}
	}
	if len(lines) > most {
		first := lines[:most/2]
		last := []rune(first[len(first)-1])
		first[len(first)-1] = string(last[:min(len(last), width-3)]) + "..."
		lines = append(first, lines[len(lines)-(most-len(first)):]...)
	}
	return lines
}
