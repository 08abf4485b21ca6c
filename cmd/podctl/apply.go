package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/kubectl/pkg/cmd/apply"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"

	"podd/api/manifest"
)

// apply is kubectl's apply behind a reader of its own: every document is decoded strictly before the first one is
// sent, and what the server finds is told with the line it is about.
func (p *podctl) apply(f cmdutil.Factory) *cobra.Command {
	flags := apply.NewApplyFlags(p.shown)
	cmd := &cobra.Command{
		Use:                   "apply (-f FILENAME | -k DIRECTORY)",
		DisableFlagsInUseLine: true,
		Short:                 "Apply manifests from files, directories, URLs or stdin",
		Long: "Apply manifests: make a pod that is not there, change one that is.\n\n" +
			"All sources are read first, strictly: an unknown, duplicate or misplaced field anywhere means that nothing is applied.",
		Example: `  podctl apply -f pod.yaml
  podctl apply -f pods/ -R
  podctl apply -f http://localhost:8000/pod.yaml
  cat pod.yaml | podctl apply -f -
  podctl apply -k kustomization/`,
		Args: onlyFlags,
		Run: func(cmd *cobra.Command, args []string) {
			validate, err := cmd.Flags().GetString("validate")
			cmdutil.CheckErr(err)
			if validate != "strict" && validate != "true" {
				cmdutil.CheckErr(fmt.Errorf("--validate=%s: manifests are read strictly, always; leave the flag out", validate))
			}
			names, err := cmd.Flags().GetStringSlice("filename")
			cmdutil.CheckErr(err)
			kustomization, err := cmd.Flags().GetString("kustomize")
			cmdutil.CheckErr(err)
			if len(names) == 0 && kustomization == "" {
				cmdutil.CheckErr(cmdutil.UsageErrorf(cmd, "say what to apply: -f FILE, -f DIRECTORY, -f URL, -f - or -k DIRECTORY"))
			}
			if flags.Prune && len(flags.PruneAllowlist) == 0 {
				flags.PruneAllowlist = pruned
				p.client.unasked = "v1 Endpoints is deprecated"
			}
			o, err := flags.ToOptions(f, cmd, "podctl", args)
			cmdutil.CheckErr(err)
			cmdutil.CheckErr(o.Validate())
			p.applyAll(cmd.Context(), f, o)
		},
	}
	flags.AddFlags(cmd)
	// podctl knows the types of what it sends, so it need not fetch the schema to make a patch.
	flags.OpenAPIPatch = false
	for _, name := range []string{"openapi-patch", "prune", "prune-allowlist", "all", "applyset", "validate"} {
		if flag := cmd.Flags().Lookup(name); flag != nil { // kubectl has some only where its alphas are on
			flag.Hidden = true
		}
	}
	return cmd
}

// pruned are the kinds that apply --prune looks at unless told otherwise: those of kubectl's own list that podd serves
// (k8s.io/kubectl/pkg/util/prune). kubectl asks for all of its list, and fails at the first that is not served.
var pruned = []string{"core/v1/ConfigMap", "core/v1/Endpoints", "core/v1/PersistentVolumeClaim", "core/v1/Pod", "core/v1/Secret", "core/v1/Service",
	"core/v1/Namespace", "core/v1/PersistentVolume"}

// onlyFlags refuses arguments, which are most often files without their -f.
func onlyFlags(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("%s: files are given with -f: %s -f %s", args[0], cmd.CommandPath(), strings.Join(args, " -f "))
}

func (p *podctl) applyAll(ctx context.Context, f cmdutil.Factory, o *apply.ApplyOptions) {
	if ctx == nil {
		ctx = context.Background()
	}
	read := reader(manifest.DecodeNamed)
	docs, err := read.gather(ctx, o.DeleteOptions.Filenames, o.DeleteOptions.Recursive, p.streams.In)
	if dir := o.DeleteOptions.Kustomize; err == nil && dir != "" {
		docs, err = read.customized(dir)
	}
	var problems manifest.Problems
	if errors.As(err, &problems) {
		fmt.Fprintln(p.shown.ErrOut, problems)
		err = errors.New("nothing was applied")
	}
	cmdutil.CheckErr(err)
	if len(docs) == 0 {
		cmdutil.CheckErr(errors.New("no objects passed to apply"))
	}

	builder := f.NewBuilder().Unstructured().ContinueOnError().NamespaceParam(o.Namespace).DefaultNamespace()
	if o.EnforceNamespace {
		builder.RequireNamespace()
	}
	for i, doc := range docs {
		builder.Stream(bytes.NewReader(doc.Raw), sentAs(docs, i))
	}
	infos, err := builder.LabelSelectorParam(o.Selector).Flatten().Do().Infos()
	sent := err == nil
	if sent {
		err = send(o, infos)
	}
	if err != nil && p.client.unreachable() == "" {
		lines := positioned(err, docs)
		if missing := noNamespace.FindStringSubmatch(err.Error()); missing != nil {
			lines = append(lines, "-> "+namespaceHint("", missing[1]))
		}
		if sent && o.DryRunStrategy == cmdutil.DryRunNone {
			lines = append(lines, others(len(infos), refusals(err, docs))...)
		}
		fmt.Fprintln(p.shown.ErrOut, strings.Join(lines, "\n"))
		err = cmdutil.ErrExit
	}
	cmdutil.CheckErr(err)
}

// refusals is how many documents an error is about.
func refusals(err error, docs []manifest.Document) (n int) {
	for i := range docs {
		if strings.Contains(err.Error(), strconv.Quote(sentAs(docs, i))) {
			n++
		}
	}
	return n
}

// others says what became of the others of several objects of which some were refused.
func others(all, refused int) []string {
	switch {
	case all < 2 || refused == 0:
		return nil
	case refused >= all:
		return []string{"error: nothing was applied"}
	case refused == 1:
		return []string{fmt.Sprintf("error: 1 of %d objects was not applied; the others were", all)}
	}
	return []string{fmt.Sprintf("error: %d of %d objects were not applied; the others were", refused, all)}
}

func send(o *apply.ApplyOptions, infos []*resource.Info) error {
	o.SetObjects(infos)
	return o.Run()
}

// called is what a document is called in an error.
func called(doc manifest.Document) string { return doc.Source + ":" + strconv.Itoa(doc.Line) }

// sentAs is what kubectl calls docs[i], and no other one: several may be on one line.
func sentAs(docs []manifest.Document, i int) string { return called(docs[i]) + "#" + strconv.Itoa(i+1) }

// positioned is err as lines for the user; errors of the server begin with the file and line they are about.
func positioned(err error, docs []manifest.Document) []string {
	var many utilerrors.Aggregate
	if errors.As(err, &many) {
		var lines []string
		for _, one := range many.Errors() {
			lines = append(lines, positioned(one, docs)...)
		}
		return lines
	}
	message := err.Error()
	for i, doc := range docs {
		_, said, found := strings.Cut(message, strconv.Quote(sentAs(docs, i))+": ")
		if !found {
			continue
		}
		if lines := causes(err, doc); len(lines) > 0 {
			return lines
		}
		return []string{called(doc) + ": " + said}
	}
	return []string{"error: " + message}
}

// causes is the field errors in err, each with its line.
func causes(err error, doc manifest.Document) []string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	var problems manifest.Problems
	fixed := false
	seen := map[metav1.StatusCause]bool{}
	for _, c := range status.Status().Details.Causes {
		if seen[c] || c.Field == "" {
			continue
		}
		seen[c] = true
		line, column := manifest.Line(doc, c.Field)
		problems = append(problems, manifest.Problem{
			Source: doc.Source, Line: line, Column: column, Path: c.Field, Message: strings.TrimSpace(c.Message),
		})
		fixed = fixed || strings.Contains(c.Message, "pod updates may not change fields other than")
	}
	slices.SortStableFunc(problems, func(a, b manifest.Problem) int { return a.Line - b.Line })
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.Error()
	}
	if fixed {
		lines = append(lines, "-> A pod keeps these as long as it lives: delete it and apply again, or use podctl replace --force -f")
	}
	return lines
}
