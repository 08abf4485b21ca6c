package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"podd/api"
)

// account makes a service account in the namespace default, with that access.
func (p *port) account(t testing.TB, name, access string) {
	t.Helper()
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if access != "" {
		account.Annotations = map[string]string{api.AccessAnnotation: access}
	}
	if _, err := kubernetes.NewForConfigOrDie(p.unix).CoreV1().ServiceAccounts("default").Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// token asks for one of an account.
func (p *port) token(t testing.TB, name string, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	made, err := kubernetes.NewForConfigOrDie(p.unix).CoreV1().ServiceAccounts("default").CreateToken(t.Context(), name,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made.Status.Token
}

// bearer is a client that has a token and nothing else.
func (p *port) bearer(token string) *kubernetes.Clientset {
	return kubernetes.NewForConfigOrDie(&rest.Config{Host: p.url, QPS: -1, BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{CAData: p.given["admin"].CA}})
}

// claims are those of a token, as far as the tests look at them.
type claims struct {
	Audience   []string `json:"aud"`
	Expiry     int64    `json:"exp"`
	Issued     int64    `json:"iat"`
	Issuer     string   `json:"iss"`
	ID         string   `json:"jti"`
	Subject    string   `json:"sub"`
	Kubernetes struct {
		Namespace         string
		ServiceAccount    struct{ Name, UID string }
		Pod, Secret, Node *struct{ Name, UID string }
		WarnAfter         int64
	} `json:"kubernetes.io"`
}

// verify checks a token as somebody would who has only the published keys, with nothing of upstream's.
func verify(t testing.TB, jwks, token string) claims {
	t.Helper()
	var keys struct {
		Keys []struct{ Kty, Crv, X, Y, Kid, Alg, Use string }
	}
	if err := json.Unmarshal([]byte(jwks), &keys); err != nil || len(keys.Keys) != 1 {
		t.Fatalf("keys %s: %v", jwks, err)
	}
	decode := func(s string) []byte {
		data, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return data
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("token of %d parts", len(parts))
	}
	var header struct{ Alg, Kid string }
	if err := json.Unmarshal(decode(parts[0]), &header); err != nil {
		t.Fatal(err)
	}
	key := keys.Keys[0]
	if header.Alg != "ES256" || key.Alg != "ES256" || key.Kid != header.Kid || key.Kid == "" || key.Crv != "P-256" || key.Use != "sig" {
		t.Fatalf("header %+v, key %+v", header, key)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, decode(key.X), decode(key.Y)))
	if err != nil {
		t.Fatal(err)
	}
	sum, signature := sha256.Sum256([]byte(parts[0]+"."+parts[1])), decode(parts[2])
	if len(signature) != 64 || !ecdsa.Verify(public, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Fatal("the signature is not that of the published key")
	}
	var c claims
	if err := json.Unmarshal(decode(parts[1]), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

const issuer = "https://kubernetes.default.svc.cluster.local"

// TestTokenRequest: what is in a token, and what is refused.
func TestTokenRequest(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	p.account(t, "robot", "")
	p.account(t, "other", "")
	ctx := t.Context()
	admin := kubernetes.NewForConfigOrDie(p.unix)
	mine := pod("mine")
	mine.Spec.ServiceAccountName = "robot"
	mine, err := admin.CoreV1().Pods("default").Create(ctx, mine, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := admin.CoreV1().Secrets("default").Create(ctx, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	robot, err := admin.CoreV1().ServiceAccounts("default").Get(ctx, "robot", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, jwks := get(t, p.client(t, "reader"), p.url+"/openid/v1/jwks")
	seconds := int64(1234)
	ask := func(req authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
		return admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "robot", &req, metav1.CreateOptions{})
	}
	before := time.Now()
	made, err := ask(authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "bank"}, ExpirationSeconds: &seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "mine", UID: mine.UID}}})
	if err != nil {
		t.Fatal(err)
	}
	c := verify(t, jwks, made.Status.Token)
	if c.Issuer != issuer || c.Subject != "system:serviceaccount:default:robot" || !slices.Equal(c.Audience, []string{"vault", "bank"}) ||
		c.ID == "" || c.Kubernetes.Namespace != "default" || c.Kubernetes.ServiceAccount.UID != string(robot.UID) || c.Kubernetes.WarnAfter != 0 ||
		c.Kubernetes.Pod == nil || c.Kubernetes.Pod.Name != "mine" || c.Kubernetes.Pod.UID != string(mine.UID) || c.Kubernetes.Secret != nil ||
		c.Kubernetes.Node == nil || c.Kubernetes.Node.Name != "host" || c.Kubernetes.Node.UID == "" {
		t.Errorf("claims %+v", c)
	}
	if c.Expiry-c.Issued != seconds || c.Issued < before.Unix() || made.Status.ExpirationTimestamp.Unix() > c.Expiry || made.UID != robot.UID {
		t.Errorf("issued %d, ends %d, answer %+v", c.Issued, c.Expiry, made)
	}
	made, err = ask(authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: "s", UID: secret.UID}}})
	if err != nil {
		t.Fatal(err)
	}
	c = verify(t, jwks, made.Status.Token)
	if !slices.Equal(c.Audience, []string{issuer}) || c.Expiry-c.Issued != 3600 || c.Kubernetes.Pod != nil || c.Kubernetes.Secret == nil {
		t.Errorf("claims %+v", c)
	}
	short, long := int64(599), int64(1<<32+1)
	bound := func(kind, version, name string, uid types.UID) authenticationv1.TokenRequest {
		return authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			Kind: kind, APIVersion: version, Name: name, UID: uid}}}
	}
	theirs := pod("theirs")
	theirs.Spec.ServiceAccountName = "other"
	if _, err := admin.CoreV1().Pods("default").Create(ctx, theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		req  authenticationv1.TokenRequest
		is   func(error) bool
		word string
	}{
		"too short":                {authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &short}}, apierrors.IsInvalid, "less than 10 minutes"},
		"too long":                 {authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &long}}, apierrors.IsInvalid, "larger than 2^32"},
		"another pod of that name": {bound("Pod", "v1", "mine", "another"), apierrors.IsConflict, "does not match the UID in record"},
		"no such pod":              {bound("Pod", "v1", "none", ""), apierrors.IsNotFound, `pods "none" not found`},
		"pod of another account":   {bound("Pod", "v1", "theirs", ""), apierrors.IsBadRequest, "different serviceaccount"},
		"another secret":           {bound("Secret", "v1", "s", "another"), apierrors.IsConflict, "does not match"},
		"a config map":             {bound("ConfigMap", "v1", "kube-root-ca.crt", ""), apierrors.IsBadRequest, "cannot bind token to object of type"},
		"another account":          {authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: "another"}}, apierrors.IsConflict, "does not match"},
		"another name":             {authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, apierrors.IsInvalid, "must match"},
	} {
		if _, err := ask(c.req); err == nil || !c.is(err) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "none", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("no such account: %v", err)
	}
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	_, text := get(t, p.client(t, "reader"), p.url+"/.well-known/openid-configuration")
	if err := json.Unmarshal([]byte(text), &document); err != nil || document.Issuer != issuer || document.Keys != issuer+"/openid/v1/jwks" {
		t.Errorf("discovery: %s", text)
	}
}

// TestAccess: an account may what its annotation says, and what it says of itself is that.
func TestAccess(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	levels := []string{"", "view", "edit", "admin"}
	clients := map[string]*kubernetes.Clientset{}
	for _, level := range levels {
		p.account(t, "has"+level, level)
		clients[level] = p.bearer(p.token(t, "has"+level, authenticationv1.TokenRequestSpec{}))
	}
	for _, c := range []struct {
		verb, group, resource, sub, namespace string
		from                                  string // the least that may
	}{
		{"list", "", "pods", "", "default", "view"}, {"get", "", "pods", "log", "default", "view"}, {"watch", "", "configmaps", "", "default", "view"},
		{"get", "", "namespaces", "", "default", "view"}, {"list", "", "namespaces", "", "", "admin"}, {"list", "", "pods", "", "", "admin"},
		{"list", "", "pods", "", "kube-system", "admin"}, {"list", "metrics.k8s.io", "pods", "", "default", "view"},
		{"get", "", "secrets", "", "default", "edit"}, {"create", "", "pods", "", "default", "edit"}, {"create", "", "pods", "exec", "default", "edit"},
		{"get", "", "pods", "exec", "default", "edit"}, {"create", "", "pods", "eviction", "default", "edit"},
		{"create", "", "serviceaccounts", "token", "default", "edit"}, {"create", "", "serviceaccounts", "token", "kube-system", "admin"},
		{"update", "", "pods", "status", "default", "admin"}, {"get", "coordination.k8s.io", "leases", "", "default", "edit"},
		{"create", "", "nodes", "proxy", "", "admin"}, {"list", "", "nodes", "", "", "admin"}, {"delete", "", "namespaces", "", "default", "admin"},
		{"update", "", "services", "status", "default", "admin"}, {"create", "authentication.k8s.io", "tokenreviews", "", "", "admin"},
		{"create", "authorization.k8s.io", "subjectaccessreviews", "", "", "admin"}, {"*", "*", "*", "", "default", "admin"},
		{"create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""},
	} {
		for i, level := range levels {
			review, err := clients[level].AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: c.namespace, Verb: c.verb, Group: c.group, Resource: c.resource, Subresource: c.sub}}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if want := i >= slices.Index(levels, c.from); review.Status.Allowed != want {
				t.Errorf("%q may %s %s/%s in %q: %v", level, c.verb, c.resource, c.sub, c.namespace, review.Status.Allowed)
			}
		}
	}
	for level, want := range map[string][4]bool{"": {}, "view": {true}, "edit": {true, true}, "admin": {true, true, true, true}} {
		c, ctx := clients[level].CoreV1(), t.Context()
		_, pods := c.Pods("default").List(ctx, metav1.ListOptions{})
		_, secrets := c.Secrets("default").List(ctx, metav1.ListOptions{})
		_, all := c.Pods("").List(ctx, metav1.ListOptions{})
		_, nodes := c.Nodes().List(ctx, metav1.ListOptions{})
		for i, err := range []error{pods, secrets, all, nodes} {
			if want[i] != (err == nil) || err != nil && !apierrors.IsForbidden(err) {
				t.Errorf("%q, %d: %v", level, i, err)
			}
		}
		// What every account may.
		if _, err := clients[level].Discovery().ServerPreferredResources(); err != nil {
			t.Errorf("%q: discovery: %v", level, err)
		}
		who, err := clients[level].AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil || who.Status.UserInfo.Username != "system:serviceaccount:default:has"+level || !slices.Equal(who.Status.UserInfo.Groups,
			[]string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}) {
			t.Errorf("%q is %+v, %v", level, who, err)
		}
		for path, want := range map[string]bool{"/openid/v1/jwks": true, "/.well-known/openid-configuration": true, "/metrics": level == "admin",
			"/podd/v1/credentials": level == "admin", "/podd/v1/images": level == "admin", "/pods": level == "admin"} {
			if err := clients[level].RESTClient().Get().AbsPath(path).Do(ctx).Error(); (err == nil) != want {
				t.Errorf("%q: %s: %v", level, path, err)
			}
		}
	}
	rules, err := clients["view"].AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || rules.Status.Incomplete || !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return slices.Contains(r.Resources, "pods/log") && slices.Contains(r.Verbs, "get") && !slices.Contains(r.Resources, "secrets")
	}) {
		t.Errorf("rules of view: %+v, %v", rules, err)
	}
}

// TestAccessIsGranted: only who may do everything says what an account may.
func TestAccessIsGranted(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	p.account(t, "edits", "edit")
	p.account(t, "reigns", "admin")
	p.account(t, "plain", "")
	ctx := t.Context()
	edit := p.bearer(p.token(t, "edits", authenticationv1.TokenRequestSpec{})).CoreV1().ServiceAccounts("default")
	grant := func(level string) []byte {
		return []byte(`{"metadata":{"annotations":{"` + api.AccessAnnotation + `":` + level + `}}}`)
	}
	for name, level := range map[string]string{"edits": `"admin"`, "plain": `"view"`, "reigns": "null"} {
		for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
			if _, err := edit.Patch(ctx, name, kind, grant(level), metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
				t.Errorf("%s to %s: %v", name, level, err)
			}
		}
	}
	if _, err := edit.Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "made", Annotations: map[string]string{
		api.AccessAnnotation: "admin"}}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an admin made by an editor: %v", err)
	}
	if _, err := edit.Patch(ctx, "edits", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a label: %v", err)
	}
	admin := p.bearer(p.token(t, "reigns", authenticationv1.TokenRequestSpec{})).CoreV1().ServiceAccounts("default")
	if _, err := admin.Patch(ctx, "plain", types.MergePatchType, grant(`"views"`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a level that is none: %v", err)
	}
	if _, err := admin.Patch(ctx, "plain", types.MergePatchType, grant(`"view"`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
}

// TestTokensEnd: a token is void when what it is bound to is gone, its account included, and for other audiences always.
func TestTokensEnd(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	p.account(t, "robot", "view")
	ctx := t.Context()
	admin := kubernetes.NewForConfigOrDie(p.unix)
	mine := pod("mine")
	mine.Spec.ServiceAccountName = "robot"
	mine, err := admin.CoreV1().Pods("default").Create(ctx, mine, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref := &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "mine"}
	bound := p.token(t, "robot", authenticationv1.TokenRequestSpec{BoundObjectRef: ref})
	free := p.token(t, "robot", authenticationv1.TokenRequestSpec{})
	foreign := p.token(t, "robot", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	lists := func(token string) error {
		_, err := p.bearer(token).CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		return err
	}
	if err := lists(bound); err != nil {
		t.Errorf("bound: %v", err)
	}
	who, err := p.bearer(bound).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Extra["authentication.kubernetes.io/pod-uid"][0] != string(mine.UID) {
		t.Errorf("bound: %+v, %v", who, err)
	}
	parts := strings.Split(free, ".")
	forged, _ := base64.RawURLEncoding.DecodeString(parts[1])
	forged = []byte(strings.Replace(string(forged), ":robot", ":other", 1))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`))
	for name, token := range map[string]string{"for another audience": foreign, "changed": parts[0] + "." + base64.RawURLEncoding.EncodeToString(forged) + "." + parts[2],
		"without a signature": parts[0] + "." + parts[1] + ".", "without an algorithm": none + "." + parts[1] + ".", "half": free[:len(free)-9], "dots": "..",
		"many dots": strings.Repeat(".", 30000)} {
		if err := lists(token); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	review := func(token string, audiences ...string) authenticationv1.TokenReviewStatus {
		t.Helper()
		r, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{
			Token: token, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	for _, c := range []struct {
		token     string
		audiences []string
		who       string
	}{
		{bound, nil, "system:serviceaccount:default:robot"}, {foreign, []string{"vault"}, "system:serviceaccount:default:robot"},
		{foreign, nil, ""}, {bound, []string{"vault"}, ""}, {"x", nil, ""}, {p.given["admin"].Token, nil, "podd-admin"},
		{p.given["admin"].Token, []string{"vault"}, ""},
	} {
		if s := review(c.token, c.audiences...); s.Authenticated != (c.who != "") || s.User.Username != c.who || (s.Error == "") != s.Authenticated {
			t.Errorf("review for %v: %+v, want %q", c.audiences, s, c.who)
		}
	}
	zero := int64(0)
	if err := admin.CoreV1().Pods("default").Delete(ctx, "mine", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Fatal(err)
	}
	if err := lists(bound); !apierrors.IsUnauthorized(err) {
		t.Errorf("the pod is gone: %v", err)
	}
	again := pod("mine") // of the same name
	again.Spec.ServiceAccountName = "robot"
	if _, err := admin.CoreV1().Pods("default").Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := lists(bound); !apierrors.IsUnauthorized(err) {
		t.Errorf("another pod: %v", err)
	}
	if err := lists(free); err != nil {
		t.Errorf("free: %v", err)
	}
	if err := admin.CoreV1().ServiceAccounts("default").Delete(ctx, "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := lists(free); !apierrors.IsUnauthorized(err) {
		t.Errorf("the account is gone: %v", err)
	}
	p.account(t, "robot", "view")
	if err := lists(free); !apierrors.IsUnauthorized(err) {
		t.Errorf("another account: %v", err)
	}
	if log := p.log.String(); strings.Contains(log, parts[2]) || strings.Contains(log, strings.Split(bound, ".")[2]) {
		t.Error("there is a token in the log")
	}
}

// TestWatchesEnd: what a token has begun ends at once when the token is void, or its account may not do it any more.
func TestWatchesEnd(t *testing.T) {
	admin := func(p *port) *kubernetes.Clientset { return kubernetes.NewForConfigOrDie(p.unix) }
	zero := int64(0)
	for name, c := range map[string]struct {
		bound bool
		void  func(t *testing.T, p *port) error
	}{
		"the pod is gone": {true, func(t *testing.T, p *port) error {
			return admin(p).CoreV1().Pods("default").Delete(t.Context(), "mine", metav1.DeleteOptions{GracePeriodSeconds: &zero})
		}},
		"the account is gone": {false, func(t *testing.T, p *port) error {
			return admin(p).CoreV1().ServiceAccounts("default").Delete(t.Context(), "robot", metav1.DeleteOptions{})
		}},
		"the access is taken back": {true, func(t *testing.T, p *port) error {
			_, err := admin(p).CoreV1().ServiceAccounts("default").Patch(t.Context(), "robot", types.MergePatchType,
				[]byte(`{"metadata":{"annotations":{"`+api.AccessAnnotation+`":null}}}`), metav1.PatchOptions{})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p := openPort(t, "127.0.0.1:0")
			p.account(t, "robot", "view")
			p.account(t, "other", "view")
			for name, account := range map[string]string{"mine": "robot", "theirs": "other"} {
				one := pod(name)
				one.Spec.ServiceAccountName = account
				if _, err := admin(p).CoreV1().Pods("default").Create(t.Context(), one, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			spec := authenticationv1.TokenRequestSpec{}
			if c.bound {
				spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "mine"}
			}
			watch := func(account string, spec authenticationv1.TokenRequestSpec) <-chan watch.Event {
				w, err := p.bearer(p.token(t, account, spec)).CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(w.Stop)
				return w.ResultChan()
			}
			ends := watch("robot", spec)
			goesOn := watch("other", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
				Kind: "Pod", APIVersion: "v1", Name: "theirs"}})
			if err := c.void(t, p); err != nil {
				t.Fatal(err)
			}
			limit := time.After(time.Minute)
			for open := true; open; {
				select {
				case _, open = <-ends:
				case <-limit:
					t.Fatal("the watch goes on")
				}
			}
			if _, err := admin(p).CoreV1().ConfigMaps("default").Create(t.Context(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "news"}},
				metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			for {
				select {
				case e, open := <-goesOn:
					if !open {
						t.Fatal("the watch of another account ended as well")
					}
					if m, ok := e.Object.(*v1.ConfigMap); ok && m.Name == "news" {
						return
					}
				case <-limit:
					t.Fatal("the watch of another account has no news")
				}
			}
		})
	}
}

// TestBaseline: an account that may edit does not get what leads to everything: a pod beyond the baseline, made, changed or
// entered, or an account that may do everything, in a pod or by its token.
func TestBaseline(t *testing.T) {
	p := openPort(t, "127.0.0.1:0")
	p.account(t, "edits", "edit")
	p.account(t, "reigns", "admin")
	ctx := t.Context()
	edit := p.bearer(p.token(t, "edits", authenticationv1.TokenRequestSpec{}))
	admin := p.bearer(p.token(t, "reigns", authenticationv1.TokenRequestSpec{}))
	yes := true
	for name, c := range map[string]struct {
		change func(*v1.PodSpec)
		why    string
	}{
		"plain":      {func(*v1.PodSpec) {}, ""},
		"volumes":    {func(s *v1.PodSpec) { s.Volumes = []v1.Volume{{Name: "v"}} }, ""}, // an emptyDir
		"privileged": {func(s *v1.PodSpec) { s.Containers[0].SecurityContext = &v1.SecurityContext{Privileged: &yes} }, `violates PodSecurity "baseline:latest": privileged`},
		"host-path": {func(s *v1.PodSpec) {
			s.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/"}}}}
		}, "hostPath volumes"},
		"host-network": {func(s *v1.PodSpec) { s.HostNetwork = true }, "host namespaces"},
		"host-pid":     {func(s *v1.PodSpec) { s.HostPID = true }, "host namespaces"},
		"host-port":    {func(s *v1.PodSpec) { s.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 80, HostPort: 80}} }, "hostPort"},
		"capability": {func(s *v1.PodSpec) {
			s.Containers[0].SecurityContext = &v1.SecurityContext{Capabilities: &v1.Capabilities{Add: []v1.Capability{"SYS_ADMIN"}}}
		}, "non-default capabilities"},
		"unconfined": {func(s *v1.PodSpec) {
			s.SecurityContext = &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeUnconfined}}
		}, "seccompProfile"},
		"as-admin": {func(s *v1.PodSpec) { s.ServiceAccountName = "reigns" }, `serviceAccountName "reigns" may do everything`},
	} {
		one := pod(name)
		c.change(&one.Spec)
		_, err := edit.CoreV1().Pods("default").Create(ctx, one, metav1.CreateOptions{})
		if c.why == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
		if _, err := admin.CoreV1().Pods("default").Create(ctx, one, metav1.CreateOptions{}); err != nil {
			t.Errorf("%s by an admin: %v", name, err)
		}
		// What is there is not theirs, either.
		if _, err := edit.CoreV1().Pods("default").Patch(ctx, name, types.StrategicMergePatchType,
			[]byte(`{"spec":{"containers":[{"name":"app","image":"other"}]}}`), metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("the image of %s: %v", name, err)
		}
		if _, err := edit.CoreV1().Pods("default").Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
			t.Errorf("a label of %s: %v", name, err)
		}
		for _, sub := range []string{"exec", "attach"} {
			err := edit.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(name).SubResource(sub).
				Param("command", "true").Param("stdout", "true").Do(ctx).Error()
			if !apierrors.IsForbidden(err) {
				t.Errorf("%s in %s: %v", sub, name, err)
			}
		}
	}
	if err := edit.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("plain").SubResource("exec").
		Param("command", "true").Param("stdout", "true").Do(ctx).Error(); apierrors.IsForbidden(err) {
		t.Errorf("exec in a pod of its own: %v", err)
	}
	if _, err := edit.CoreV1().ServiceAccounts("default").CreateToken(ctx, "reigns", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a token of an admin: %v", err)
	}
	if _, err := edit.CoreV1().ServiceAccounts("default").CreateToken(ctx, "edits", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}); err != nil {
		t.Errorf("a token of its own: %v", err)
	}
}
