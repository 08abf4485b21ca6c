package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/authentication"
	authenticationvalidation "k8s.io/kubernetes/pkg/apis/authentication/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/authentication/tokenreview"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"podd/api/accounts"
)

// openIssuer makes what signs the tokens of service accounts; there is none without a directory for its key.
func (s *Server) openIssuer() error {
	if s.pki == nil {
		return nil
	}
	if s.Issuer == "" {
		s.Issuer = accounts.DefaultIssuer
	}
	var err error
	s.issuer, err = accounts.NewIssuer(s.Issuer, s.pki.AccountsKey(), s.Store)
	return err
}

var errNoIssuer = errors.New("podd signs no tokens here")

// tokenREST is the subresource serviceaccounts/token. (Upstream: pkg/registry/core/serviceaccount/storage/token.go, which
// comes with whole controllers.)
type tokenREST struct{ server *Server }

var (
	_             rest.NamedCreater                   = (*tokenREST)(nil)
	_             rest.GroupVersionKindProvider       = (*tokenREST)(nil)
	_             rest.SubresourceObjectMetaPreserver = (*tokenREST)(nil)
	_             authenticator.Request               = (*tokenReviewer)(nil)
	tokenRequest                                      = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	tokenResource                                     = schema.GroupResource{Group: tokenRequest.Group, Resource: tokenRequest.Kind}
)

func (*tokenREST) New() runtimeObject { return &authentication.TokenRequest{} }
func (*tokenREST) Destroy()           {}

// GroupVersionKind is not that of the version that the subresource is in.
func (*tokenREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind { return tokenRequest }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the uid of the account that the request may name.
func (*tokenREST) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (r *tokenREST) Create(ctx context.Context, name string, obj runtimeObject, validate rest.ValidateObjectFunc,
	_ *metav1.CreateOptions) (runtimeObject, error) {
	req, ok := obj.(*authentication.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a token request: %T", obj))
	}
	if r.server.issuer == nil {
		return nil, apierrors.NewInternalError(errNoIssuer)
	}
	found, err := r.server.registry.serviceAccounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	account, ok := found.(*core.ServiceAccount)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("not a service account: %T", found))
	}
	if err := completeTokenRequest(req, account, r.server.issuer.Audiences()); err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, req.DeepCopy()); err != nil {
			return nil, err
		}
	}
	grant := accounts.Grant{Account: &account.ObjectMeta, Audiences: req.Spec.Audiences, Seconds: req.Spec.ExpirationSeconds}
	if err := r.server.bind(ctx, req.Spec.BoundObjectRef, account, &grant); err != nil {
		return nil, err
	}
	token, err := r.server.issuer.Sign(ctx, grant)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	req.Status.Token = token
	req.Status.ExpirationTimestamp = metav1.NewTime(req.CreationTimestamp.Add(time.Duration(req.Spec.ExpirationSeconds) * time.Second))
	return req, nil
}

// completeTokenRequest checks a request, and fills in what it leaves out.
func completeTokenRequest(req *authentication.TokenRequest, account *core.ServiceAccount, audiences []string) error {
	metadata := field.NewPath("metadata")
	for _, f := range []struct{ what, got, want string }{{"name", req.Name, account.Name}, {"namespace", req.Namespace, account.Namespace}} {
		if f.got != "" && f.got != f.want {
			return apierrors.NewInvalid(tokenRequest.GroupKind(), account.Name, field.ErrorList{field.Invalid(metadata.Child(f.what), f.got,
				"must match the service account "+f.what+" if specified")})
		}
	}
	if req.UID != "" && req.UID != account.UID {
		return apierrors.NewConflict(tokenResource, account.Name, fmt.Errorf(
			"the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID))
	}
	req.Name, req.Namespace, req.UID = account.Name, account.Namespace, account.UID
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = audiences
	}
	req.CreationTimestamp = metav1.Now() // before the token is made: it ends not before the end that is answered
	req.Status = authentication.TokenRequestStatus{}
	if errs := authenticationvalidation.ValidateTokenRequest(req); len(errs) > 0 {
		return apierrors.NewInvalid(tokenRequest.GroupKind(), "", errs)
	}
	return nil
}

// bind looks up the object that a token is to be bound to.
func (s *Server) bind(ctx context.Context, ref *authentication.BoundObjectReference, account *core.ServiceAccount, grant *accounts.Grant) error {
	if ref == nil {
		return nil
	}
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	var bound *metav1.ObjectMeta
	switch kind.GroupKind() {
	case core.Kind("Pod"):
		pod, ok := s.Store.Pod(account.Namespace, ref.Name)
		if !ok {
			return apierrors.NewNotFound(v1.Resource("pods"), ref.Name)
		}
		if pod.Spec.ServiceAccountName != account.Name {
			return apierrors.NewBadRequest(fmt.Sprintf(
				"cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		bound, grant.Pod, grant.Node = &pod.ObjectMeta, &pod.ObjectMeta, s.nodeOf(ctx, pod)
	case core.Kind("Secret"):
		meta, err := lookUp(ctx, s.registry.secrets, account.Namespace, ref.Name)
		if err != nil {
			return err
		}
		bound, grant.Secret = meta, meta
	case core.Kind("Node"):
		meta, err := lookUp(ctx, s.registry.nodes, metav1.NamespaceNone, ref.Name)
		if err != nil {
			return err
		}
		bound, grant.Node = meta, meta
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", kind))
	}
	if ref.UID != "" && ref.UID != bound.UID {
		return apierrors.NewConflict(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, ref.Name, fmt.Errorf(
			"the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated",
			ref.UID))
	}
	return nil
}

// nodeOf is the node that a pod is on, as far as it is known.
func (s *Server) nodeOf(ctx context.Context, pod *v1.Pod) *metav1.ObjectMeta {
	if pod.Spec.NodeName == "" {
		return nil
	}
	if node, err := lookUp(ctx, s.registry.nodes, metav1.NamespaceNone, pod.Spec.NodeName); err == nil {
		return node
	}
	return &metav1.ObjectMeta{Name: pod.Spec.NodeName}
}

func lookUp(ctx context.Context, registry rest.Getter, namespace, name string) (*metav1.ObjectMeta, error) {
	obj, err := registry.Get(request.WithNamespace(ctx, namespace), name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	found, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	return &metav1.ObjectMeta{Name: found.GetName(), Namespace: found.GetNamespace(), UID: found.GetUID()}, nil
}

// Token makes a token of the pod's account that is bound to the pod, for one audience ("" is podd's API) and for that long, as
// projected volumes hold them. An account that is gone is an error for which IsNotFound is true.
func (s *Server) Token(ctx context.Context, pod *v1.Pod, audience string, expiry time.Duration) (token string, expires time.Time, err error) {
	if s.issuer == nil {
		return "", time.Time{}, errNoIssuer
	}
	account, err := accounts.Account(s.Store, pod.Namespace, pod.Spec.ServiceAccountName)
	if err != nil {
		return "", time.Time{}, err
	}
	audiences := []string{audience}
	if audience == "" {
		audiences = s.issuer.Audiences()
	}
	now := time.Now()
	token, err = s.issuer.Sign(ctx, accounts.Grant{Account: &account.ObjectMeta, Pod: &pod.ObjectMeta, Node: s.nodeOf(ctx, pod),
		Audiences: audiences, Seconds: int64(expiry / time.Second)})
	return token, now.Add(expiry), err
}

// TokenKey says which key tokens are signed with; it is another one when that has been made again.
func (s *Server) TokenKey() string {
	if s.issuer == nil {
		return ""
	}
	return s.issuer.KeyID()
}

// tokenReviewer tells what podd makes of a token.
type tokenReviewer struct{ server *Server }

func (t *tokenReviewer) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	answer, err := t.server.bearer(r)
	return answer.Response, answer.Response != nil, err
}

// tokenReviews are made by those who are given tokens and want to know whose they are.
func (s *Server) tokenReviews() rest.Storage {
	var audiences []string
	if s.issuer != nil {
		audiences = s.issuer.Audiences()
	}
	return tokenreview.NewREST(&tokenReviewer{s}, audiences)
}

// openIDPaths publish the key of tokens, for those who check them without podd. (Upstream: pkg/routes/openidmetadata.go.)
func (s *Server) openIDPaths(mux *http.ServeMux) {
	serve := func(kind string, document func() ([]byte, int)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			data, seconds := document()
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Cache-Control", "public, max-age="+strconv.Itoa(seconds))
			_, _ = w.Write(data)
		}
	}
	if s.issuer == nil {
		return
	}
	mux.HandleFunc("GET "+serviceaccount.OpenIDConfigPath, serve("application/json", s.issuer.Discovery))
	mux.HandleFunc("GET "+serviceaccount.JWKSPath, serve("application/jwk-set+json", s.issuer.Keys))
}

// bearerAnswer is whose a token is, and when it ends; zero is never.
type bearerAnswer struct {
	*authenticator.Response
	ends time.Time
}

// bearer finds out whose token a request brings. The audiences in its context are those that the token may be for; without
// them it must be for podd's API.
func (s *Server) bearer(r *http.Request) (bearerAnswer, error) {
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(kind, "Bearer") || s.pki == nil {
		return bearerAnswer{}, errCredentials
	}
	if s.issuer == nil || token == "" {
		return bearerAnswer{}, errCredentials
	}
	if name, ok := s.pki.User(token); ok { // for podd's API and nothing else
		audiences := s.issuer.Audiences()
		if wanted, ok := authenticator.AudiencesFrom(r.Context()); ok {
			if audiences = audiences.Intersect(wanted); len(audiences) == 0 {
				return bearerAnswer{}, errCredentials
			}
		}
		return bearerAnswer{Response: &authenticator.Response{User: users[name], Audiences: audiences}}, nil
	}
	answer, ends, err := s.issuer.Authenticate(r.Context(), token)
	return bearerAnswer{answer, ends}, err
}
