package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

type runtimeObject = runtime.Object

// Annotations of pods that come from a manifest file (upstream: pkg/kubelet/types/pod_update.go).
const (
	SourceAnnotation = "kubernetes.io/config.source" // "file"
	HashAnnotation   = "kubernetes.io/config.hash"   // of the manifest
	SourceFile       = "file"
)

// ErrTerminating says that the pod of that name is still going away: ask again when it has.
var ErrTerminating = errors.New("the old pod is still terminating")

// CreatePod admits, defaults and validates pod and stores it durably, as POST does. The result is what was stored. A
// pod with a uid is one that was created before and that the store has lost: it keeps its uid, status and deletion.
func (s *Server) CreatePod(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	pod = pod.DeepCopy()
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	legacyscheme.Scheme.Default(pod)
	if pod.UID != "" {
		return s.adopt(ctx, pod)
	}
	internal := &core.Pod{}
	if err := legacyscheme.Scheme.Convert(pod, internal, nil); err != nil {
		return nil, fmt.Errorf("create pod %s: %w", pod.Name, err)
	}
	ctx = warning.WithWarningRecorder(request.WithNamespace(ctx, pod.Namespace), noWarnings{})
	opts := &metav1.CreateOptions{}
	attr := admission.NewAttributesRecord(internal, nil, v1.SchemeGroupVersion.WithKind("Pod"), pod.Namespace, pod.Name,
		v1.SchemeGroupVersion.WithResource("pods"), "", admission.Create, opts, false, &user.DefaultInfo{Name: "podd"})
	if err := s.admit.Admit(ctx, attr, nil); err != nil {
		return nil, err
	}
	obj, err := s.registry.pods.Create(ctx, internal, rest.ValidateAllObjectFunc, opts)
	if err != nil {
		return nil, err
	}
	created := &v1.Pod{}
	return created, legacyscheme.Scheme.Convert(obj, created, nil)
}

// adopt stores a pod as it is. It was admitted once.
func (s *Server) adopt(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	if pod.CreationTimestamp.IsZero() {
		pod.CreationTimestamp = metav1.Now()
	}
	if pod.Status.Phase == "" {
		pod.Status.Phase = v1.PodPending
	}
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = qos.GetPodQOS(pod)
	}
	pod.Generation = max(pod.Generation, 1)
	if err := s.ensureNamespace(ctx, pod.Namespace); err != nil { // it was lost too
		return nil, err
	}
	return s.Store.AdoptPod(ctx, pod)
}

type noWarnings struct{}

func (noWarnings) AddWarning(agent, text string) {}

// PutStatic makes the pod of a manifest file be what the store holds, through the same admission, defaulting and
// validation as POST. If the file has changed, the pod of the old content is asked to go away, and the error is
// ErrTerminating until it has. A pod of that name that is not from a file is an error, AlreadyExists.
func (s *Server) PutStatic(ctx context.Context, pod *v1.Pod) (*v1.Pod, error) {
	pod = pod.DeepCopy()
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	content, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("read pod %s: %w", pod.Name, err)
	}
	sum := sha256.Sum256(content)
	hash := hex.EncodeToString(sum[:16])
	if old, ok := s.Store.Pod(pod.Namespace, pod.Name); ok {
		switch {
		case old.Annotations[SourceAnnotation] != SourceFile:
			return nil, apierrors.NewAlreadyExists(v1.Resource("pods"), pod.Name)
		case old.DeletionTimestamp != nil:
			return nil, ErrTerminating
		case old.Annotations[HashAnnotation] == hash:
			return old, nil
		}
		if err := s.RemoveStatic(ctx, pod.Namespace, pod.Name); err != nil {
			return nil, err
		}
		if _, still := s.Store.Pod(pod.Namespace, pod.Name); still {
			return nil, ErrTerminating
		}
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[SourceAnnotation], pod.Annotations[HashAnnotation] = SourceFile, hash
	pod.UID, pod.ResourceVersion = "", ""
	return s.CreatePod(ctx, pod)
}

// RemoveStatic asks for the graceful deletion of the pod of a manifest file that is gone. None, and one that is not
// from a file, is no error.
func (s *Server) RemoveStatic(ctx context.Context, namespace, name string) error {
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	old, ok := s.Store.Pod(namespace, name)
	if !ok || old.Annotations[SourceAnnotation] != SourceFile {
		return nil
	}
	opts := &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(old.UID))}
	_, _, err := s.registry.pods.Delete(request.WithNamespace(ctx, namespace), name, rest.ValidateAllObjectFunc, opts)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
