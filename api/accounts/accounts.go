// Package accounts makes the tokens of service accounts and finds out whose a token is. Formats, claims and checks are
// upstream's (k8s.io/kubernetes/pkg/serviceaccount): JWTs signed with ES256, good for as long as they say and as their
// account, and the pod or secret that they are bound to, are the same objects.
package accounts

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"podd/store"
)

// DefaultIssuer is who signs, unless told otherwise: that of clusters made by kubeadm.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// leeway is for how long after its end a token is still taken, for clocks that differ. (upstream: jwt.DefaultLeeway)
const leeway = time.Minute

// Issuer signs tokens and knows them again.
type Issuer struct {
	name          string
	keyID         string
	generator     serviceaccount.TokenGenerator
	authenticator authenticator.Token
	metadata      serviceaccount.OpenIDMetadataProvider
}

// NewIssuer is the issuer of that name, a https URL, with that key. Objects that tokens are bound to are looked up in s.
func NewIssuer(name string, key *ecdsa.PrivateKey, s *store.Store) (*Issuer, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	generator, err := serviceaccount.JWTTokenGenerator(name, key)
	if err != nil {
		return nil, fmt.Errorf("sign tokens: %w", err)
	}
	keys, err := serviceaccount.StaticPublicKeysGetter([]any{&key.PublicKey})
	if err != nil {
		return nil, fmt.Errorf("publish key of tokens: %w", err)
	}
	metadata, err := serviceaccount.NewOpenIDMetadataProvider(name, strings.TrimSuffix(name, "/")+serviceaccount.JWKSPath, "", keys)
	if err != nil {
		return nil, fmt.Errorf("publish key of tokens: %w", err)
	}
	public := keys.GetPublicKeys(context.Background(), "")
	if len(public) != 1 {
		return nil, fmt.Errorf("publish key of tokens: there are %d", len(public))
	}
	i := &Issuer{name: name, keyID: public[0].KeyID, generator: generator, metadata: metadata}
	i.authenticator = serviceaccount.JWTTokenAuthenticator([]string{name}, keys, i.Audiences(), serviceaccount.NewValidator(&objects{s}))
	return i, nil
}

// CheckName says what is wrong with the name of an issuer.
func CheckName(name string) error {
	u, err := url.Parse(name)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("issuer %q: must be a https URL without query and fragment", name)
	}
	return nil
}

// KeyID names the key in the tokens that it signs.
func (i *Issuer) KeyID() string { return i.keyID }

// Audiences are those of tokens that are for podd's API.
func (i *Issuer) Audiences() authenticator.Audiences { return authenticator.Audiences{i.name} }

// Grant is what a token is to say. At most one of Pod and Secret is set; Node is where the pod is.
type Grant struct {
	Account           *metav1.ObjectMeta
	Pod, Secret, Node *metav1.ObjectMeta
	Audiences         []string
	Seconds           int64 // from now
}

// Sign makes a token.
func (i *Issuer) Sign(ctx context.Context, g Grant) (string, error) {
	var (
		pod    *core.Pod
		secret *core.Secret
		node   *core.Node
	)
	if g.Pod != nil {
		pod = &core.Pod{ObjectMeta: *g.Pod}
	}
	if g.Secret != nil {
		secret = &core.Secret{ObjectMeta: *g.Secret}
	}
	if g.Node != nil {
		node = &core.Node{ObjectMeta: *g.Node}
	}
	public, private, err := serviceaccount.Claims(core.ServiceAccount{ObjectMeta: *g.Account}, pod, secret, node, g.Seconds, 0, g.Audiences)
	if err != nil {
		return "", fmt.Errorf("sign token of %s/%s: %w", g.Account.Namespace, g.Account.Name, err)
	}
	token, err := i.generator.GenerateToken(ctx, public, private)
	if err != nil {
		return "", fmt.Errorf("sign token of %s/%s: %w", g.Account.Namespace, g.Account.Name, err)
	}
	return token, nil
}

var errNotOurs = errors.New("not a token of this issuer")

// Authenticate says whose a token is, for which of the audiences in ctx (without any: for podd's API), and when it ends to
// be taken. It is an error when it is nobody's, or not any longer.
func (i *Issuer) Authenticate(ctx context.Context, token string) (*authenticator.Response, time.Time, error) {
	answer, ok, err := i.authenticator.AuthenticateToken(ctx, token)
	if err == nil && !ok {
		err = errNotOurs
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	ends, err := expiry(token)
	if err != nil {
		return nil, time.Time{}, err
	}
	if info, ok := answer.User.(*user.DefaultInfo); ok {
		info.Groups = append(info.Groups, user.AllAuthenticated)
	}
	return answer, ends.Add(leeway), nil
}

// expiry is when a token ends that was verified.
func expiry(token string) (time.Time, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, errNotOurs
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, errNotOurs
	}
	var claims struct {
		Expiry int64 `json:"exp"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Expiry == 0 {
		return time.Time{}, errNotOurs
	}
	return time.Unix(claims.Expiry, 0), nil
}

// Discovery is the document at /.well-known/openid-configuration, and Keys the one at /openid/v1/jwks, with the seconds for
// which they may be kept.
func (i *Issuer) Discovery() (document []byte, seconds int) { return i.metadata.GetConfigJSON() }

// Keys are the public keys of tokens.
func (i *Issuer) Keys() (document []byte, seconds int) { return i.metadata.GetKeysetJSON() }
