//go:build host

package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"podd/test/harness"
)

var (
	churnSeed = flag.Uint64("churn.seed", 1, "seed of TestRandomKills")
	churnPods = flag.Int("churn.pods", 300, "how many pods TestManyPods makes")
)

// TestRandomKills kills podd twenty times, at random moments, while pods are created and deleted all the time. In the end
// nothing is left of them, and another pod was never touched.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	t.Logf("seed %d; another one with -churn.seed", *churnSeed)
	random := rand.New(rand.NewPCG(*churnSeed, 0))
	s := start(t, harness.WithArgs("--restart-backoff=10ms", "--restart-backoff-max=50ms"))
	s.client = s.fleeting(t)
	s.running(t, pod{Name: "bystander", Container: "command: [sleep, infinity]", Spec: "restartPolicy: Always"})
	s.sleeping(t, 1)
	s.Rebase()
	before := s.mustTasks(t)
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() { s.churn(ctx, i, rand.New(rand.NewPCG(*churnSeed, uint64(i+1)))) })
	}
	for range 20 {
		moment := time.NewTimer(time.Duration(random.IntN(700)) * time.Millisecond) // after it is ready
		<-moment.C
		s.Restart()
	}
	stop()
	work.Wait()
	for i := range 4 {
		s.must(t, "delete", "pod", churner(i), "--grace-period=1", "--ignore-not-found")
	}
	s.same(t, before)
	s.CheckLeaks()
	if strings.Contains(s.Logs(), "left of an unknown pod") {
		t.Error("podd took a pod that came or went for one that it does not know")
	}
}

func churner(i int) string { return fmt.Sprintf("churn-%d", i) }

// churn makes and deletes one pod again and again, each time after a random part of its life. podd may not answer.
func (s *suite) churn(ctx context.Context, i int, random *rand.Rand) {
	manifest := pod{Name: churner(i), Script: "echo up; usleep 300000; exit $(($$ % 2))", Spec: "restartPolicy: OnFailure"}
	for ctx.Err() == nil {
		_ = s.make(ctx, manifest)
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(random.IntN(600)) * time.Millisecond):
		}
		_ = s.delete(ctx, churner(i), 1)
	}
}

// make creates a pod through the API.
func (s *suite) make(ctx context.Context, p pod) error {
	var wanted v1.Pod
	if err := yaml.UnmarshalStrict([]byte(p.String()), &wanted); err != nil {
		return err
	}
	_, err := s.client.CoreV1().Pods(cmp.Or(wanted.Namespace, metav1.NamespaceDefault)).Create(ctx, &wanted, metav1.CreateOptions{})
	return err
}

// delete deletes a pod through the API, and does not wait.
func (s *suite) delete(ctx context.Context, name string, grace int64) error {
	err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// TestManyPods has eight clients create and delete 300 pods (-churn.pods for another number), more than the pod range has addresses.
func TestManyPods(t *testing.T) {
	t.Parallel()
	const clients = 8
	total := *churnPods
	s := start(t)
	// The first pod makes what stays for all.
	s.running(t, pod{Name: "first", Container: "command: [sleep, infinity]"})
	s.remove(t, "first")
	s.Rebase()
	s.client = s.fleeting(t)
	began := time.Now()
	var work sync.WaitGroup
	failed := make([]error, clients)
	for c := range clients {
		work.Go(func() {
			for i := c; i < total && failed[c] == nil; i += clients {
				failed[c] = s.once(t.Context(), fmt.Sprintf("many-%d", i))
			}
		})
	}
	work.Wait()
	if err := errors.Join(failed...); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("%d pods created, run and deleted in %s: %.1f per second", total, took.Round(time.Millisecond), float64(total)/took.Seconds())
	s.CheckLeaks()
}

// once is the life of one pod.
func (s *suite) once(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.make(ctx, pod{Name: name, Container: "command: [sleep, infinity]"}); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if _, err := s.follow(ctx, name, ready); err != nil {
		return fmt.Errorf("wait until %s runs: %w", name, err)
	}
	if err := s.delete(ctx, name, 0); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if _, err := s.follow(ctx, name, gone); err != nil {
		return fmt.Errorf("wait until %s is gone: %w", name, err)
	}
	return nil
}
