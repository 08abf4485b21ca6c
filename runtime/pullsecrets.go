package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"

	"podd/runtime/images"
)

// pullSecrets are the pod's secrets for pulling images, in the order in which it names them, and the names of those that are
// not there; of those that are of no use, why. One that cannot be read is an error; what it says is not told.
func (h *host) pullSecrets(pod *v1.Pod) (found []v1.Secret, missing, useless []string, err error) {
	objects := h.r.objects()
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := objects.Secret(pod.Namespace, ref.Name)
		if apierrors.IsNotFound(err) {
			missing = append(missing, ref.Name)
			continue
		}
		if err != nil {
			return nil, nil, nil, err
		}
		if why := uselessFor(secret); why != "" {
			useless = append(useless, why)
			continue
		}
		if _, err := secrets.MakeDockerKeyring([]v1.Secret{*secret}, nil); err != nil {
			return nil, nil, nil, fmt.Errorf("image pull secret %s: its credentials cannot be read", ref.Name)
		}
		found = append(found, *secret)
	}
	return found, missing, useless, nil
}

// uselessFor is why a secret has no credentials for pulls, which upstream passes over without a word; "" if it may have some.
func uselessFor(secret *v1.Secret) string {
	var key string
	switch kind := secret.Type; kind {
	case v1.SecretTypeDockerConfigJson:
		key = v1.DockerConfigJsonKey
	case v1.SecretTypeDockercfg:
		key = v1.DockerConfigKey
	default:
		return fmt.Sprintf("secret %s is of type %s, not %s", secret.Name, cmp.Or(kind, v1.SecretTypeOpaque), v1.SecretTypeDockerConfigJson)
	}
	if len(secret.Data[key]) == 0 {
		return fmt.Sprintf("secret %s has nothing at its key %s", secret.Name, key)
	}
	return ""
}

// credentials are those that secrets have for an image, the most specific first. (Upstream: pkg/credentialprovider.)
func credentials(from []v1.Secret, name string) ([]images.Auth, error) {
	ring, err := secrets.MakeDockerKeyring(from, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return nil, errors.New("image pull secrets: their credentials cannot be read")
	}
	repository, _, _ := strings.Cut(name, "@")
	if i := strings.LastIndex(repository, ":"); i > strings.LastIndex(repository, "/") {
		repository = repository[:i]
	}
	var auths []images.Auth
	found, _ := ring.Lookup(repository)
	for _, a := range found {
		auths = append(auths, images.Auth{User: a.Username, Secret: a.Password})
	}
	return auths, nil
}

// pullAs pulls an image with each of the credentials that the pod's secrets have for it until one is enough, or without any
// when they have none. (Upstream: pkg/kubelet/kuberuntime PullImage.)
func (h *host) pullAs(ctx context.Context, pod *v1.Pod, ref, name string) (images.Info, error) {
	from, missing, useless, err := h.pullSecrets(pod)
	if err != nil {
		return images.Info{}, err
	}
	if len(missing) > 0 {
		h.event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); "+
			"attempting to pull the image may not succeed.", strings.Join(missing, ", "))
	}
	if len(useless) > 0 {
		h.event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Some image pull secrets are not used: %s", strings.Join(useless, "; "))
	}
	auths, err := credentials(from, name)
	if err != nil {
		return images.Info{}, err
	}
	if len(auths) == 0 {
		return h.r.Images.Pull(ctx, ref, nil)
	}
	var errs []error
	for _, auth := range auths {
		info, err := h.r.Images.PullAs(ctx, ref, auth, nil)
		if err == nil || ctx.Err() != nil {
			return info, err
		}
		errs = append(errs, err)
	}
	if len(errs) == 1 {
		return images.Info{}, errs[0]
	}
	return images.Info{}, errors.Join(errs...)
}
