package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cleanLimit is how long things may take to go, beyond the grace periods of the pods.
const cleanLimit = time.Minute

// clean deletes what the run has made and waits until it is gone: pods, then what they used, then namespaces. It says what
// is left and why.
func (r *runner) clean() (left []string) {
	ctx, cancel := context.WithTimeout(r.last, cleanLimit+r.longestGrace())
	defer cancel()
	for _, t := range r.things {
		if t.asked && t.uid == "" {
			if err := t.recall(ctx); err != nil {
				left = append(left, fmt.Sprintf("%s, if it was made: %v", t.where(), err))
			}
		}
	}
	for _, group := range r.groups() {
		for _, t := range group {
			if err := r.remove(ctx, t, nil); err != nil {
				left = append(left, fmt.Sprintf("%s: %v", t.where(), err))
				t.uid = ""
			}
		}
		for _, t := range group {
			if t.uid == "" {
				continue
			}
			if err := r.outwait(ctx, t); err != nil {
				left = append(left, fmt.Sprintf("%s: it is deleted and not gone yet: %v", t.where(), err))
				continue
			}
			r.say("%s deleted", t)
		}
	}
	return left
}

// recall finds out whether t was made, though podd did not say so.
func (t *thing) recall(ctx context.Context) error {
	return insist(ctx, func(ctx context.Context) error {
		found, err := t.find(ctx)
		if found != nil {
			t.name, t.uid = found.GetName(), found.GetUID()
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// groups are the things that were made, by what can go at the same time.
func (r *runner) groups() [3][]*thing {
	var all [3][]*thing
	for _, t := range slices.Backward(r.things) {
		switch {
		case t.uid == "":
		case t.kind == "pod":
			all[0] = append(all[0], t)
		case t.kind == "namespace":
			all[2] = append(all[2], t)
		default:
			all[1] = append(all[1], t)
		}
	}
	return all
}

func (r *runner) longestGrace() time.Duration {
	var longest int64
	for _, t := range r.pods() {
		grace := int64(v1.DefaultTerminationGracePeriodSeconds)
		if g := t.doc.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = *g
		}
		longest = max(longest, grace)
	}
	return time.Duration(longest) * time.Second
}

// remove asks that t be deleted, again as long as podd does not answer. A grace of nil is the object's own.
func (r *runner) remove(ctx context.Context, t *thing, grace *int64) error {
	if t.kind == "namespace" {
		if err := r.foreign(ctx, t); err != nil {
			return err
		}
	}
	if t.kind == "pod" && grace == nil && r.gentle.Err() != nil {
		grace = new(int64)
	}
	opts := metav1.DeleteOptions{GracePeriodSeconds: grace, Preconditions: &metav1.Preconditions{UID: &t.uid}}
	return insist(ctx, func(ctx context.Context) error {
		err := t.client.Delete(ctx, t.name, opts)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or somebody else's by now
			return nil
		}
		return err
	})
}

// outwait waits until t is gone. When the user asks a second time it goes without grace.
func (r *runner) outwait(ctx context.Context, t *thing) error {
	gentle, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(r.gentle, cancel) // also when the user has asked since t was removed with its own grace
	err := untilGone(gentle, t, t.uid)
	unhook()
	cancel()
	if err == nil || ctx.Err() != nil {
		return err
	}
	if t.kind == "pod" {
		if err := r.remove(ctx, t, new(int64)); err != nil {
			return err
		}
	}
	return untilGone(ctx, t, t.uid)
}

// untilGone waits until there is no object of that uid under t's name.
func untilGone(ctx context.Context, t *thing, uid types.UID) error {
	for wait := retryFirst / 2; ; wait = min(wait*3/2, retryMost) {
		err := insist(ctx, func(ctx context.Context) error {
			found, err := t.client.Get(ctx, t.name, metav1.GetOptions{})
			if err == nil && found.GetUID() == uid {
				return errThere
			}
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != errThere {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

// errThere is that an object is.
var errThere = apierrors.NewConflict(v1.Resource("objects"), "", nil)

// insist asks until podd answers, or ctx is done.
func insist(ctx context.Context, ask func(context.Context) error) error {
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		one, cancel := context.WithTimeout(ctx, answerLimit)
		err := ask(one)
		cancel()
		if err == nil || !lost(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

// foreign is an error if somebody else has put something into a namespace that the run has made: it would go with it.
func (r *runner) foreign(ctx context.Context, t *thing) error {
	return insist(ctx, func(ctx context.Context) error {
		pods, err := r.api.Pods(t.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range pods.Items {
			return kept("pod/" + pods.Items[i].Name)
		}
		maps, err := r.api.ConfigMaps(t.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range maps.Items {
			if name := maps.Items[i].Name; name != "kube-root-ca.crt" {
				return kept("configmap/" + name)
			}
		}
		secrets, err := r.api.Secrets(t.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range secrets.Items {
			return kept("secret/" + secrets.Items[i].Name)
		}
		return nil
	})
}

// kept is why a namespace is not deleted.
func kept(what string) error {
	return apierrors.NewForbidden(v1.Resource("namespaces"), "", fmt.Errorf("%s is in it, which this run has not made", what))
}

// sayKept tells how what was made can be deleted.
func (r *runner) sayKept() {
	for _, t := range slices.Backward(r.things) {
		if t.uid != "" {
			r.say("kept: podctl delete %s", t.where())
		}
	}
}
