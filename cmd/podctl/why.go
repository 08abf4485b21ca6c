package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/util/completion"
)

// why says in plain words what holds a pod back, from what the API says about it: its status and its events. causes.go
// knows what they mean.
func (p *podctl) why(f cmdutil.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why [POD...]",
		Short: "Say why a pod is not running or not ready",
		Long: "Say in plain words why a pod is not running, is not ready, was restarted or was refused, and what to try next.\n\n" +
			"Without a name it looks at every pod of the namespace and tells of those that something is wrong with.",
		Example: `  podctl why web
  podctl why -n kube-system`,
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
			if len(names) == 0 {
				cmdutil.CheckErr(p.whyAll(ctx, api, namespace))
				return
			}
			var errs []error
			for i, name := range names {
				if i > 0 {
					fmt.Fprintln(p.shown.Out)
				}
				errs = append(errs, p.whyOne(ctx, api, namespace, name))
			}
			cmdutil.CheckErr(errors.Join(errs...))
		},
	}
	return cmd
}

// whyAll tells of the pods of a namespace that are not as they should be.
func (p *podctl) whyAll(ctx context.Context, api corev1.CoreV1Interface, namespace string) error {
	pods, err := api.Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	told := 0
	for i := range pods.Items {
		pod := &pods.Items[i]
		events, err := eventsOf(ctx, api, namespace, pod.Name, pod.UID)
		if err != nil {
			return err
		}
		found := diagnose(pod, events, time.Now())
		if found.fine {
			continue
		}
		if told++; told > 1 {
			fmt.Fprintln(p.shown.Out)
		}
		tell(p.shown.Out, pod.Name, found, events)
	}
	switch {
	case len(pods.Items) == 0:
		fmt.Fprintf(p.shown.Out, "There are no pods in namespace %s.\n", namespace)
	case told == 0:
		fmt.Fprintf(p.shown.Out, "Nothing is wrong with the %d pods in namespace %s.\n", len(pods.Items), namespace)
	}
	return nil
}

func (p *podctl) whyOne(ctx context.Context, api corev1.CoreV1Interface, namespace, name string) error {
	if kind, rest, ok := strings.Cut(name, "/"); ok {
		if !slices.Contains([]string{"pod", "pods", "po"}, kind) {
			return fmt.Errorf("%s: why is about pods: name a pod", name)
		}
		name = rest
	}
	pod, err := api.Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err == nil {
		events, err := eventsOf(ctx, api, namespace, name, pod.UID)
		if err != nil {
			return err
		}
		tell(p.shown.Out, name, diagnose(pod, events, time.Now()), events)
		return nil
	}
	// What was there or was refused may have left events behind.
	events, other := eventsOf(ctx, api, namespace, name, "")
	if other != nil || len(events) == 0 {
		return fmt.Errorf("there is no pod %s in namespace %s, and no event about one", name, namespace)
	}
	tell(p.shown.Out, name, diagnosis{
		headline: "is not there: it was deleted, or refused. This is what was said about it in the last hour.",
	}, events)
	return cmdutil.ErrExit
}

// eventsOf is the events about a pod, oldest first.
func eventsOf(ctx context.Context, api corev1.CoreV1Interface, namespace, name string, uid any) ([]v1.Event, error) {
	about := fields.Set{"involvedObject.name": name, "involvedObject.kind": "Pod"}
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

// tell prints a diagnosis with the last events.
func tell(out io.Writer, name string, d diagnosis, events []v1.Event) {
	fmt.Fprintf(out, "%s %s\n", name, d.headline)
	for _, c := range d.causes {
		fmt.Fprintf(out, "\n  %s\n", strings.ReplaceAll(c.what, "\n", "\n  "))
		if c.next != "" {
			fmt.Fprintf(out, "  -> %s\n", strings.ReplaceAll(c.next, "\n", "\n     "))
		}
	}
	if d.fine || len(events) == 0 {
		return
	}
	const most = 6
	fmt.Fprintln(out, "\n  Events:")
	for _, e := range events[max(0, len(events)-most):] {
		times := ""
		if n := max(e.Count, seriesCount(e)); n > 1 {
			times = fmt.Sprintf(" (%d times)", n)
		}
		fmt.Fprintf(out, "  %6s ago  %-7s  %s: %s%s\n", duration.HumanDuration(time.Since(lastSeen(e))), cmp.Or(e.Type, "-"), e.Reason,
			strings.ReplaceAll(strings.TrimSpace(e.Message), "\n", " "), times)
	}
}

func seriesCount(e v1.Event) int32 {
	if e.Series == nil {
		return 0
	}
	return e.Series.Count
}
