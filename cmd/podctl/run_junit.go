package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// The elements of a JUnit report, as CI systems read it: a suite for each pod, with a case for the pod and one for each
// of its containers. What XML cannot hold is replaced by U+FFFD when it is encoded.
type (
	junitReport struct {
		XMLName xml.Name `xml:"testsuites"`
		Name    string   `xml:"name,attr"`
		junitCounts
		Suites []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string `xml:"name,attr"`
		Timestamp string `xml:"timestamp,attr"`
		junitCounts
		Cases []junitCase `xml:"testcase"`
	}
	junitCounts struct {
		Tests    int    `xml:"tests,attr"`
		Failures int    `xml:"failures,attr"`
		Errors   int    `xml:"errors,attr"`
		Skipped  int    `xml:"skipped,attr"`
		Time     string `xml:"time,attr"` // in seconds
	}
	junitCase struct {
		Class   string     `xml:"classname,attr"`
		Name    string     `xml:"name,attr"`
		Time    string     `xml:"time,attr"`
		Failure *junitSaid `xml:"failure"` // it has run, and failed
		Error   *junitSaid `xml:"error"`   // it could not run, or not to its end
		Skipped *junitSaid `xml:"skipped"` // it was not run
		Out     string     `xml:"system-out,omitempty"`
	}
	junitSaid struct {
		Message string `xml:"message,attr,omitempty"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", max(0, d).Seconds()) }

// junitCaseOf is the case of a container. over is that the run is and what was to end has had its time.
func junitCaseOf(pod *v1.Pod, s v1.ContainerStatus, v verdict, o outcome, now time.Time) junitCase {
	c := junitCase{Name: s.Name, Time: seconds(0)}
	last := s.State.Terminated
	if last == nil && s.State.Running == nil {
		last = s.LastTerminationState.Terminated
	}
	said := func(kind, message string) *junitSaid { return &junitSaid{Message: message, Type: kind, Text: message} }
	switch {
	case last != nil:
		c.Time = seconds(last.FinishedAt.Sub(last.StartedAt.Time))
		if last.ExitCode != 0 && !isSidecar(pod, s.Name) {
			c.Failure = said(cmp.Or(last.Reason, "Error"), ended(pod, s.Name, last))
		} else if v.container == s.Name && v.why != "" {
			c.Error = said("Never", v.why)
		}
	case s.State.Running != nil:
		c.Time = seconds(now.Sub(s.State.Running.StartedAt.Time))
		if o.why != "" && v.stage == goesOn && !s.Ready {
			c.Error = said("Unfinished", "it runs and is not ready: "+o.why)
		}
	case v.container == s.Name && v.why != "":
		c.Error = said("Never", v.why)
	default:
		message := "it was not started"
		if w := s.State.Waiting; w != nil {
			message = strings.Trim(w.Reason+": "+w.Message, ": ")
		}
		c.Skipped = said("", message)
	}
	return c
}

// junitSuiteOf is the suite of a pod. tail is the end of what a container has written.
func junitSuiteOf(namespace, name string, pod *v1.Pod, v verdict, o outcome, began, now time.Time, tail func(container string) string) junitSuite {
	class := namespace + "." + name
	whole := junitCase{Class: class, Name: "pod", Time: seconds(now.Sub(began))}
	switch v.stage {
	case failed:
		whole.Failure = &junitSaid{Message: v.why, Type: "Failed", Text: v.why}
	case hopeless:
		whole.Error = &junitSaid{Message: v.why, Type: "Never", Text: v.why}
	case goesOn:
		if o.why != "" {
			whole.Error = &junitSaid{Message: o.why, Type: "Unfinished", Text: o.why}
		}
	}
	suite := junitSuite{Name: namespace + "/" + name, Timestamp: began.UTC().Format("2006-01-02T15:04:05"), Cases: []junitCase{whole}}
	if pod != nil {
		for _, s := range statuses(pod) {
			c := junitCaseOf(pod, s, v, o, now)
			c.Class, c.Out = class, tail(s.Name)
			suite.Cases = append(suite.Cases, c)
		}
	}
	for _, c := range suite.Cases {
		suite.add(c)
	}
	suite.Time = whole.Time
	return suite
}

func (n *junitCounts) add(c junitCase) {
	n.Tests++
	switch {
	case c.Failure != nil:
		n.Failures++
	case c.Error != nil:
		n.Errors++
	case c.Skipped != nil:
		n.Skipped++
	}
}

// encode is the report as a file.
func (j *junitReport) encode() ([]byte, error) {
	for _, s := range j.Suites {
		j.Tests, j.Failures, j.Errors, j.Skipped = j.Tests+s.Tests, j.Failures+s.Failures, j.Errors+s.Errors, j.Skipped+s.Skipped
	}
	body, err := xml.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode report: %w", err)
	}
	return slices.Concat([]byte(xml.Header), body, []byte("\n")), nil
}

// writeReport writes the report that was asked for. That it cannot be written is told, and changes no exit code: the pods have
// done what they have.
func (r *runner) writeReport(o outcome) {
	if r.o.junit == "" {
		return
	}
	ctx, cancel := context.WithTimeout(r.last, reportLimit)
	defer cancel()
	now := time.Now()
	report := &junitReport{Name: "podctl run", junitCounts: junitCounts{Time: seconds(now.Sub(r.began))}}
	told := false
	for _, t := range r.pods() {
		if t.uid == "" || r.board == nil {
			continue
		}
		pod, _, _ := r.board.look(t.uid)
		v := o.verdicts[t]
		told = told || v.stage != done
		report.Suites = append(report.Suites, junitSuiteOf(t.object.GetNamespace(), t.name, pod, v, o, r.began, now, func(container string) string {
			return r.tail(ctx, t, pod, container)
		}))
	}
	if o.why != "" && !told {
		c := junitCase{Class: "podctl", Name: "run", Time: report.Time, Error: &junitSaid{Message: o.why, Type: "Run", Text: o.why}}
		report.Suites = append(report.Suites, junitSuite{Name: "podctl run", Timestamp: r.began.UTC().Format("2006-01-02T15:04:05"),
			junitCounts: junitCounts{Tests: 1, Errors: 1, Time: report.Time}, Cases: []junitCase{c}})
	}
	text, err := report.encode()
	if err == nil {
		err = replaceFile(r.o.junit, text)
	}
	if err != nil {
		fmt.Fprintln(r.p.shown.ErrOut, "error: write report:", err)
	}
}

// replaceFile writes a file as a whole: whoever reads it sees the old one or the new one.
func replaceFile(name string, text []byte) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() { // a pipe, or /dev/stdout
		return os.WriteFile(name, text, 0o644)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing to remove
	_, err = bytes.NewReader(text).WriteTo(tmp)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
