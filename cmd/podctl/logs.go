package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/cmd/logs"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	"k8s.io/kubectl/pkg/polymorphichelpers"
	utilcomp "k8s.io/kubectl/pkg/util/completion"

	"podd/status"
)

// logs is kubectl's logs, which does not wait for a container that cannot come any more, and does wait for a pod that has no
// node yet.
func (p *podctl) logs(f cmdutil.Factory) *cobra.Command {
	streams := p.shown
	said := &once{w: streams.ErrOut, said: map[string]bool{}}
	streams.ErrOut = said
	o := logs.NewLogsOptions(streams)
	cmd := logs.NewCmdLogs(f, streams)
	cmd.ResetFlags() // they are bound to options of its own
	o.AddFlags(cmd)
	cmd.Run = func(cmd *cobra.Command, args []string) {
		cmdutil.CheckErr(o.Complete(f, cmd, args))
		cmdutil.CheckErr(o.Validate())
		clients, err := f.KubernetesClientSet()
		cmdutil.CheckErr(err)
		o.LogsForObject = honest(o.LogsForObject, clients.CoreV1(), said)
		all := honest(polymorphichelpers.LogsForObjectFunc(o.AllPodLogsForObject), clients.CoreV1(), said)
		o.AllPodLogsForObject = polymorphichelpers.AllPodLogsForObjectFunc(all)
		cmdutil.CheckErr(o.RunLogsContext(cmd.Context()))
	}
	cmdutil.CheckErr(cmd.RegisterFlagCompletionFunc("container", utilcomp.ContainerCompletionFunc(f)))
	return cmd
}

// honest makes the requests that ask does be logRequests.
func honest(ask polymorphichelpers.LogsForObjectFunc, pods corev1.PodsGetter, said *once) polymorphichelpers.LogsForObjectFunc {
	return func(g genericclioptions.RESTClientGetter, object, options runtime.Object, timeout time.Duration, all bool) (map[v1.ObjectReference]rest.ResponseWrapper, error) {
		requests, err := ask(g, object, options, timeout, all)
		for of, request := range requests {
			requests[of] = &logRequest{request, of, pods, said}
		}
		return requests, err
	}
}

// logRequest is a request for the log of one container.
type logRequest struct {
	rest.ResponseWrapper
	of   v1.ObjectReference
	pods corev1.PodsGetter
	said *once
}

// Stream is the log. Its error has a status, with which kubectl asks again when it follows, only where that may help. The pod is
// looked at first: what it is by then it still is when the answer comes, if it has ended.
func (l *logRequest) Stream(ctx context.Context) (io.ReadCloser, error) {
	pod, err := l.pods.Pods(l.of.Namespace).Get(ctx, l.of.Name, metav1.GetOptions{})
	if err != nil { // the answer about the log says more
		return l.ResponseWrapper.Stream(ctx)
	}
	over := l.over(pod)
	if pod.Spec.NodeName == "" { // its log is empty, and no error
		if over != nil {
			return l.end(over)
		}
		return nil, unbound(pod, l.container())
	}
	log, err := l.ResponseWrapper.Stream(ctx)
	if over != nil && apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "is waiting to start") {
		return l.end(over)
	}
	return log, err
}

// end is err as what the command ends with, which kubectl would print twice.
func (l *logRequest) end(err error) (io.ReadCloser, error) {
	l.said.again(err.Error())
	return nil, err
}

// over is that nothing of the pod starts any more; nil if something may.
func (l *logRequest) over(pod *v1.Pod) error {
	how := ""
	switch pod.Status.Phase {
	case v1.PodFailed:
		how = "has failed"
	case v1.PodSucceeded:
		how = "has succeeded"
	default:
		return nil
	}
	if pod.Status.Reason != "" {
		how += " (" + pod.Status.Reason + ")"
	}
	what := "never ran"
	for _, s := range status.Statuses(&pod.Status) {
		if t := s.State.Terminated; s.Name == l.container() && (t != nil && !t.StartedAt.IsZero() || s.LastTerminationState.Terminated != nil) {
			what = "has no log any more"
		}
	}
	return fmt.Errorf("pod %q %s, and container %q %s", pod.Name, how, l.container(), what)
}

// unbound is that a container waits for its pod to have a node.
func unbound(pod *v1.Pod, container string) error {
	why := string(v1.PodPending)
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason != "" {
			why += ", " + c.Reason
		}
	}
	return apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: the pod has no node yet (%s)", container, pod.Name, why))
}

// container is the name in the path of a field, as in spec.containers{app}.
func (l *logRequest) container() string {
	_, name, _ := strings.Cut(l.of.FieldPath, "{")
	return strings.TrimSuffix(name, "}")
}
