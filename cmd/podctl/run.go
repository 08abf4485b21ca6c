package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	kubectlrun "k8s.io/kubectl/pkg/cmd/run"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	utilexec "k8s.io/utils/exec"

	"podd/api/manifest"
)

// Exit codes of a run that are not those of a container.
const (
	codeNever   = 125 // it cannot come to its end, or was not cleaned up
	codeTimeout = 124
	codeSignal  = 128 // and the signal's number
)

// What a run waits for.
const (
	untilReady    = "ready"
	untilComplete = "complete"
)

// What --keep leaves, other than nothing.
const (
	keepSuccess = "success"
	keepAlways  = "always"
)

// runFlags are what was asked for on the command line.
type runFlags struct {
	files     []string
	recursive bool
	kustomize string

	until       string
	timeout     time.Duration // 0 is for ever
	exitFrom    string        // CONTAINER or POD/CONTAINER
	maxRestarts int32         // below 0 any number

	logs, prefix, quiet bool
	junit               string
	replace             bool
	keep                string
}

// runVerb is two commands of one name: with manifests, and no --image, podd's own, and else kubectl's as it is.
func (p *podctl) runVerb(f cmdutil.Factory, args []string) func() *cobra.Command {
	if ofManifests(args) {
		return func() *cobra.Command { return p.runManifests(f) }
	}
	return func() *cobra.Command {
		cmd := p.interactive(args, func(s genericiooptions.IOStreams) *cobra.Command { return kubectlrun.NewCmdRun(f, s) })()
		cmd.Long = strings.TrimSpace(cmd.Long) + "\n\nWith -f or -k, and without --image, it runs what manifests say, until that is done or ready, and cleans up: " +
			"for CI. See 'podctl run -f FILE --help'."
		cmd.Example = strings.TrimRight(cmd.Example, "\n ") + "\n\n  # Run the pods of a manifest to their end and leave nothing behind\n  podctl run -f pod.yaml --logs"
		for _, name := range []string{"filename", "kustomize", "recursive"} {
			if flag := cmd.Flags().Lookup(name); flag != nil {
				flag.Usage = "for podctl run without --image: see 'podctl run -f FILE --help'"
			}
		}
		return cmd
	}
}

// ofManifests tells whether the arguments of run name manifests, or have flags that only go with them, and name no image.
func ofManifests(args []string) bool {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	given := func(names ...string) bool {
		return slices.ContainsFunc(args, func(arg string) bool {
			return slices.ContainsFunc(names, func(name string) bool {
				return arg == name || strings.HasPrefix(arg, name+"=") || len(name) == 2 && strings.HasPrefix(arg, name)
			})
		})
	}
	return given("-f", "--filename", "-k", "--kustomize", "--until", "--exit-from", "--junit", "--logs", "--keep") && !given("--image")
}

func (p *podctl) runManifests(f cmdutil.Factory) *cobra.Command {
	o := &runFlags{}
	cmd := &cobra.Command{
		Use:                   "run (-f FILENAME | -k DIRECTORY) [--until=complete|ready] [--logs] [--exit-from=CONTAINER] [--junit=FILE]",
		DisableFlagsInUseLine: true,
		Short:                 "Run the pods of manifests to their end and clean up",
		Long: "Make what manifests say, wait until all pods have completed (or are ready), and delete what was made.\n\n" +
			"What can never succeed ends the run early, with the reason. The exit code is that of the container that failed first, or of " +
			"the one that --exit-from names; 124 after --timeout, 130 after Ctrl-C, 125 when something can never succeed or could not be cleaned up. " +
			"Progress goes to stderr, logs to stdout. Without -f, podctl run NAME --image=IMAGE is kubectl's.",
		Example: `  podctl run -f test.yaml --logs --timeout=10m --junit=report.xml
  podctl run -f db-and-tests.yaml --exit-from=tests --logs
  podctl run -f web.yaml --until=ready --keep`,
		Args: onlyFlags,
		Run: func(cmd *cobra.Command, _ []string) {
			code, err := p.runAll(f, o)
			cmdutil.CheckErr(err)
			if code != 0 {
				cmdutil.CheckErr(utilexec.CodeExitError{Err: errors.New(""), Code: code})
			}
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&o.files, "filename", "f", nil, "files, directories, patterns, URLs or - for stdin, as apply takes them")
	flags.BoolVarP(&o.recursive, "recursive", "R", false, "take the directories below those of -f too")
	flags.StringVarP(&o.kustomize, "kustomize", "k", "", "a directory with a kustomization")
	flags.StringVar(&o.until, "until", untilComplete, "what to wait for: complete (all pods have ended) or ready (all pods are)")
	flags.DurationVar(&o.timeout, "timeout", 0, "how long to wait, like 90s or 10m; then it has failed with exit code 124. 0 is for ever")
	flags.StringVar(&o.exitFrom, "exit-from", "", "end when this container ([POD/]CONTAINER) does, with its exit code")
	flags.Int32Var(&o.maxRestarts, "max-restarts", 3, "how often a container may be started again; -1 is any number")
	flags.BoolVar(&o.logs, "logs", false, "print what the containers write")
	flags.BoolVar(&o.prefix, "prefix", true, "begin each line of the logs with pod and container")
	flags.StringVar(&o.junit, "junit", "", "write a JUnit report to this file, however it ends")
	flags.BoolVar(&o.replace, "replace", false, "delete first what an earlier run has left under these names, and nothing else")
	flags.StringVar(&o.keep, "keep", "", "leave what was made: success (also what --keep alone means) does if all went well, always in any case")
	flags.Lookup("keep").NoOptDefVal = keepSuccess
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing but what goes wrong")
	for name, values := range map[string][]string{"until": {untilComplete, untilReady}, "keep": {keepSuccess, keepAlways}} {
		cmdutil.CheckErr(cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
	}
	return cmd
}

// check finds flags that make no sense.
func (o *runFlags) check() error {
	switch {
	case o.until != untilReady && o.until != untilComplete:
		return fmt.Errorf("--until=%s: it is %s or %s", o.until, untilComplete, untilReady)
	case o.keep != "" && o.keep != keepSuccess && o.keep != keepAlways:
		return fmt.Errorf("--keep=%s: it is %s or %s", o.keep, keepSuccess, keepAlways)
	case o.exitFrom != "" && o.until == untilReady:
		return errors.New("--exit-from is about the end of a container: it does not go with --until=ready")
	case o.timeout < 0:
		return fmt.Errorf("--timeout=%s: it cannot be negative", o.timeout)
	}
	if o.junit == "" {
		return nil
	}
	if info, err := os.Stat(o.junit); err == nil && info.IsDir() {
		return fmt.Errorf("--junit=%s: it is a directory", o.junit)
	}
	if _, err := os.Stat(filepath.Dir(o.junit)); err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	return nil
}

// runAll is a whole run. An error is one that nothing was made for yet.
func (p *podctl) runAll(f cmdutil.Factory, o *runFlags) (int, error) {
	if err := o.check(); err != nil {
		return 0, err
	}
	r := &runner{p: p, o: o, began: time.Now(), histories: map[string]*history{}, told: map[string]bool{}}
	stop := r.heed()
	defer stop()
	err := r.prepare(f)
	if err == nil {
		err = r.look(r.work)
	}
	if err != nil {
		if o.junit != "" {
			why := err.Error()
			var printed refused
			if errors.As(err, &printed) {
				why = printed.problems.Error()
			}
			r.writeReport(outcome{why: why, code: codeNever})
		}
		if r.work.Err() != nil {
			o := r.cut()
			fmt.Fprintln(p.shown.ErrOut, "error: "+o.why)
			return o.code, nil
		}
		return 0, err
	}
	return r.run(), nil
}

// runner is one run.
type runner struct {
	p     *podctl
	o     *runFlags
	api   corev1.CoreV1Interface
	began time.Time

	things []*thing // in the order in which they are made
	from   *thing   // the pod of --exit-from
	pick   string   // its container

	board     *board
	logs      *runLogs
	histories map[string]*history // by pod UID
	told      map[string]bool     // what was said of the progress

	work   context.Context // ends when the run is over, whatever the reason
	end    context.CancelCauseFunc
	gentle context.Context // ends when the user does not want to wait for grace periods
	last   context.Context // ends when the user does not want to wait at all
}

// outcome is how a run ended.
type outcome struct {
	code     int
	why      string // empty after success
	about    []*thing
	verdicts map[*thing]verdict
}

// prepare reads the manifests and finds what has to be made.
func (r *runner) prepare(f cmdutil.Factory) error {
	docs, err := r.read()
	if err != nil {
		return err
	}
	config, err := r.p.client.ToRESTConfig()
	if err != nil {
		return err
	}
	if r.api, err = corev1.NewForConfig(config); err != nil {
		return err
	}
	if r.things, err = list(f, config, docs); err != nil {
		return err
	}
	if err := r.choose(); err != nil {
		return err
	}
	return r.endless()
}

func (r *runner) read() ([]manifest.Document, error) {
	if len(r.o.files) == 0 && r.o.kustomize == "" {
		return nil, errors.New("say what to run: -f FILE, -f DIRECTORY, -f URL, -f - or -k DIRECTORY")
	}
	read := reader(manifest.DecodeAll)
	docs, err := read.gather(r.work, r.o.files, r.o.recursive, r.p.streams.In)
	if r.o.kustomize != "" && err == nil {
		var more []manifest.Document
		more, err = read.customized(r.o.kustomize)
		docs = append(docs, more...)
	}
	if err != nil {
		return nil, r.refuse(err)
	}
	return docs, nil
}

// refuse prints what is wrong in manifests, each with its line. Another error is returned as it is.
func (r *runner) refuse(err error) error {
	var problems manifest.Problems
	if !errors.As(err, &problems) {
		return err
	}
	fmt.Fprintln(r.p.shown.ErrOut, problems)
	return refused{problems}
}

// refused is what is wrong in manifests, after it was printed.
type refused struct{ problems manifest.Problems }

func (refused) Error() string { return "nothing was run" }

// run makes everything, waits, tells and cleans up.
func (r *runner) run() int {
	if r.o.timeout > 0 {
		var cancel context.CancelFunc
		r.work, cancel = context.WithTimeoutCause(r.work, r.o.timeout, errTimeout)
		defer cancel()
	}
	watching, unwatch := context.WithCancel(context.Background())
	r.board = newBoard()
	defer func() { unwatch(); r.board.wait() }()

	o, made := r.build()
	if made {
		r.board.follow(watching, r.api, r.pods())
		if r.o.logs {
			r.logs = r.newLogs()
			r.logs.start(watching)
		}
		o = r.await()
	}
	r.end(errOver)
	r.logs.settle()
	if o.why != "" {
		r.explain(o)
	}
	r.writeReport(o)
	kept := r.keeps(o)
	if kept {
		r.sayKept()
	} else if left := r.clean(); len(left) > 0 {
		fmt.Fprintln(r.p.shown.ErrOut, "error: not cleaned up:\n  "+strings.Join(left, "\n  "))
		if o.code == 0 {
			o.code = codeNever
		}
	}
	r.logs.finish(kept)
	return o.code
}

// keeps tells whether what was made stays.
func (r *runner) keeps(o outcome) bool {
	return r.o.keep == keepAlways || r.o.keep == keepSuccess && o.code == 0
}

// pods are the pods among the things.
func (r *runner) pods() []*thing {
	var all []*thing
	for _, t := range r.things {
		if t.doc.Pod != nil {
			all = append(all, t)
		}
	}
	return all
}

// say tells of the progress.
func (r *runner) say(format string, args ...any) {
	if !r.o.quiet {
		fmt.Fprintf(r.p.shown.ErrOut, format+"\n", args...)
	}
}
