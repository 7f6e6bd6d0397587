package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
)

const mergePatch = types.MergePatchType

func conflicts(ctx context.Context, d *driver) (string, error) {
	const namespace, name, workers, rounds = "conflicts", "counter", 8, 25
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	objects := d.client.CoreV1().ConfigMaps(namespace)
	stale, err := d.create(ctx, namespace, name, "0")
	if err != nil {
		return "", err
	}
	if _, err := d.set(ctx, namespace, name, "0!"); err != nil {
		return "", err
	}
	stale.Data["n"] = "stale"
	_, err = objects.Update(ctx, stale, metav1.UpdateOptions{})
	if err := expect("an update of an old version", err, apierrors.IsConflict); err != nil {
		return "", err
	}
	for what, preconditions := range map[string]metav1.Preconditions{
		"a deletion of an old version":   {ResourceVersion: &stale.ResourceVersion},
		"a deletion of another identity": {UID: new(types.UID)},
	} {
		err = objects.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &preconditions})
		if err := expect(what, err, apierrors.IsConflict); err != nil {
			return "", err
		}
	}
	_, err = d.create(ctx, namespace, name, "again")
	if err := expect("a second creation", err, apierrors.IsAlreadyExists); err != nil {
		return "", err
	}
	if err := expect("a deletion of what is not there", d.delete(ctx, namespace, "nobody"), apierrors.IsNotFound); err != nil {
		return "", err
	}

	if _, err := d.set(ctx, namespace, name, "0"); err != nil {
		return "", err
	}
	lost := make(chan int, workers)
	err = parallel(workers, workers, func(int) error {
		mine := 0
		defer func() { lost <- mine }()
		for range rounds {
			for {
				object, err := objects.Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				n, err := strconv.Atoi(object.Data["n"])
				if err != nil {
					return err
				}
				object.Data["n"] = strconv.Itoa(n + 1)
				if _, err = objects.Update(ctx, object, metav1.UpdateOptions{}); err == nil {
					break
				}
				if !apierrors.IsConflict(err) {
					return err
				}
				mine++
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	conflicted := 0
	for range workers {
		conflicted += <-lost
	}
	object, err := objects.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if want := strconv.Itoa(workers * rounds); object.Data["n"] != want {
		return "", fmt.Errorf("%s increments came to %s", want, object.Data["n"])
	}
	return fmt.Sprintf("%d increments by %d clients, %d tried again", workers*rounds, workers, conflicted), nil
}

func serverSideApply(ctx context.Context, d *driver) (string, error) {
	const namespace, name = "applied", "shared"
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	objects := d.client.CoreV1().ConfigMaps(namespace)
	apply := func(manager string, force bool, data map[string]string) (*corev1.ConfigMap, error) {
		return objects.Apply(ctx, applycorev1.ConfigMap(name, namespace).WithData(data),
			metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	if _, err := apply("a", false, map[string]string{"both": "1", "of-a": "1"}); err != nil {
		return "", err
	}
	_, err := apply("b", false, map[string]string{"both": "2"})
	if err := expect("an apply of another's field", err, apierrors.IsConflict); err != nil {
		return "", err
	}
	if _, err := apply("b", true, map[string]string{"both": "2", "of-b": "1"}); err != nil {
		return "", err
	}
	// A field that its only owner no longer names goes away.
	object, err := apply("a", true, map[string]string{})
	if err != nil {
		return "", err
	}
	if len(object.Data) != 2 || object.Data["both"] != "2" || object.Data["of-b"] != "1" {
		return "", fmt.Errorf("the applies came to %v", object.Data)
	}
	again, err := apply("b", false, map[string]string{"both": "2", "of-b": "1"})
	if err != nil {
		return "", err
	}
	if again.ResourceVersion != object.ResourceVersion {
		return "", fmt.Errorf("an apply that changes nothing went from revision %s to %s", object.ResourceVersion, again.ResourceVersion)
	}
	return fmt.Sprintf("%d managers", len(again.ManagedFields)), nil
}

func customResources(ctx context.Context, d *driver) (string, error) {
	const namespace, group, plural, count = "custom", "driver.example.com", "gadgets", 100
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	properties := map[string]apiextensionsv1.JSONSchemaProps{
		"spec":   {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"size": {Type: "integer"}}},
		"status": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"phase": {Type: "string"}}},
	}
	definitions := d.extensions.ApiextensionsV1().CustomResourceDefinitions()
	definition := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + "." + group},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: "gadget", Kind: "Gadget", ListKind: "GadgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
	if _, err := definitions.Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		return "", err
	}
	gadgets := d.dynamic.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: plural}).Namespace(namespace)
	gadget := func(i int, size any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": group + "/v1", "kind": "Gadget",
			"metadata": map[string]any{"name": fmt.Sprintf("g-%03d", i)}, "spec": map[string]any{"size": size},
		}}
	}
	began := time.Now()
	if err := until(ctx, 30*time.Second, "the new kind is served", func(ctx context.Context) error {
		_, err := gadgets.List(ctx, metav1.ListOptions{})
		return err
	}); err != nil {
		return "", err
	}
	served := time.Since(began)
	list, err := gadgets.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	w, err := gadgets.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	if err := parallel(4, count, func(i int) error {
		object, err := gadgets.Create(ctx, gadget(i, int64(i)), metav1.CreateOptions{})
		if err != nil {
			return err
		}
		object.Object["status"] = map[string]any{"phase": "made"}
		_, err = gadgets.UpdateStatus(ctx, object, metav1.UpdateOptions{})
		return err
	}); err != nil {
		return "", err
	}
	_, err = gadgets.Create(ctx, gadget(count, "large"), metav1.CreateOptions{})
	if err := expect("a gadget against its schema", err, apierrors.IsInvalid); err != nil {
		return "", err
	}
	seen := map[watch.EventType]int{}
	for range 2 * count {
		event, err := next(ctx, w)
		if err != nil {
			return "", fmt.Errorf("watch of the new kind after %v: %w", seen, err)
		}
		seen[event.Type]++
	}
	if seen[watch.Added] != count || seen[watch.Modified] != count {
		return "", fmt.Errorf("watch of the new kind: %v", seen)
	}
	got, token := 0, ""
	for {
		list, err := gadgets.List(ctx, metav1.ListOptions{Limit: 30, Continue: token})
		if err != nil {
			return "", err
		}
		for _, item := range list.Items {
			size, _, _ := unstructured.NestedInt64(item.Object, "spec", "size")
			phase, _, _ := unstructured.NestedString(item.Object, "status", "phase")
			if item.GetName() != fmt.Sprintf("g-%03d", got) || size != int64(got) || phase != "made" {
				return "", fmt.Errorf("place %d of the pages is %v", got, item.Object)
			}
			got++
		}
		if token = list.GetContinue(); token == "" {
			break
		}
	}
	if got != count {
		return "", fmt.Errorf("%d gadgets and not %d", got, count)
	}

	if err := definitions.Delete(ctx, definition.Name, metav1.DeleteOptions{}); err != nil {
		return "", err
	}
	return fmt.Sprintf("served after %.1f s, %d objects with status", served.Seconds(), count),
		until(ctx, 60*time.Second, "the kind and its objects are gone", func(ctx context.Context) error {
			if _, err := definitions.Get(ctx, definition.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("the definition is there (%v)", err)
			}
			left, err := d.keys(ctx, "/registry/"+group+"/")
			if err == nil && left > 0 {
				err = fmt.Errorf("%d objects are left", left)
			}
			return err
		})
}

func nodesAndLeases(ctx context.Context, d *driver) (string, error) {
	const namespace, count, rounds = "kube-node-lease", 50, 20
	nodes, leases := d.client.CoreV1().Nodes(), d.client.CoordinationV1().Leases(namespace)
	// The apiserver makes this namespace itself, a moment after its start.
	if err := until(ctx, 30*time.Second, "the namespace of the leases", func(ctx context.Context) error {
		_, err := d.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return err
	}); err != nil {
		return "", err
	}
	began := time.Now()
	err := parallel(count, count, func(i int) error {
		name := fmt.Sprintf("node-%02d", i)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return err
		}
		seconds := int32(40)
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds},
		}
		lease, err := leases.Create(ctx, lease, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		for range rounds {
			lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
			// As a kubelet does: with the version that its last renewal was answered with.
			if lease, err = leases.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("renewal of %s: %w", name, err)
			}
		}
		patch := `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`
		_, err = nodes.Patch(ctx, name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		return err
	})
	if err != nil {
		return "", err
	}
	took := time.Since(began)
	list, err := nodes.List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	ready := 0
	for _, node := range list.Items {
		if len(node.Status.Conditions) == 1 && node.Status.Conditions[0].Status == corev1.ConditionTrue {
			ready++
		}
	}
	if ready != count {
		return "", fmt.Errorf("%d nodes of %d are ready", ready, count)
	}
	return fmt.Sprintf("%d nodes, %.0f renewals/s", count, count*rounds/took.Seconds()), nil
}

func finalizers(ctx context.Context, d *driver) (string, error) {
	const namespace, name = "finalized", "held"
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	objects := d.client.CoreV1().ConfigMaps(namespace)
	object := configMap(name, "0")
	object.Finalizers = []string{"driver.example.com/hold"}
	object, err := objects.Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	w, err := objects.Watch(ctx, metav1.ListOptions{ResourceVersion: object.ResourceVersion})
	if err != nil {
		return "", err
	}
	defer w.Stop()
	if err := d.delete(ctx, namespace, name); err != nil {
		return "", err
	}
	held, err := objects.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("the object went before its finalizer: %w", err)
	}
	if held.DeletionTimestamp == nil {
		return "", errors.New("a deleted object with a finalizer has no deletion time")
	}
	if _, err := objects.Patch(ctx, name, mergePatch, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		return "", err
	}
	_, err = objects.Get(ctx, name, metav1.GetOptions{})
	if err := expect("a read of the finalized object", err, apierrors.IsNotFound); err != nil {
		return "", err
	}
	_, err = follow(ctx, w, []wanted{
		{watch.Modified, name, revisionOf(held), "0"},
		{watch.Deleted, name, 0, "0"},
	})
	return "held until the finalizer went", err
}

func garbageCollection(ctx context.Context, d *driver) (string, error) {
	const namespace, replicas = "owned", 30
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	pods := d.client.CoreV1().Pods(namespace)
	deployments := d.client.AppsV1().Deployments(namespace)
	labels := map[string]string{"app": "a"}
	count := int32(replicas)
	_, err := deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "none"}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	began := time.Now()
	podsAre := func(want int) error {
		return until(ctx, 60*time.Second, fmt.Sprintf("%d pods", want), func(ctx context.Context) error {
			list, err := pods.List(ctx, metav1.ListOptions{})
			if err == nil && len(list.Items) != want {
				err = fmt.Errorf("%d pods", len(list.Items))
			}
			return err
		})
	}
	if err := podsAre(replicas); err != nil {
		return "", err
	}
	made := time.Since(began)
	if _, err := deployments.Patch(ctx, "a", mergePatch, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{}); err != nil {
		return "", err
	}
	if err := podsAre(7); err != nil {
		return "", err
	}
	foreground := metav1.DeletePropagationForeground
	if err := deployments.Delete(ctx, "a", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		return "", err
	}
	if err := podsAre(0); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d pods after %.1f s, then 7, then none", replicas, made.Seconds()),
		until(ctx, 60*time.Second, "the deployment is gone after what it owns", func(ctx context.Context) error {
			_, err := deployments.Get(ctx, "a", metav1.GetOptions{})
			return expect("a read of it", err, apierrors.IsNotFound)
		})
}

func namespaceDeletion(ctx context.Context, d *driver) (string, error) {
	const namespace, count = "doomed", 400
	if err := d.namespace(ctx, namespace); err != nil {
		return "", err
	}
	if err := parallel(8, count, func(i int) error {
		object := configMap(fmt.Sprintf("d-%d", i), "0")
		if i == 0 {
			object.Finalizers = []string{"driver.example.com/hold"}
		}
		if _, err := d.client.CoreV1().ConfigMaps(namespace).Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return err
		}
		_, err := d.client.CoreV1().Secrets(namespace).Create(ctx,
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: object.Name}}, metav1.CreateOptions{})
		return err
	}); err != nil {
		return "", err
	}
	began := time.Now()
	if err := d.client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		return "", err
	}
	if err := until(ctx, 90*time.Second, "all but the held object is gone", func(ctx context.Context) error {
		secrets, err := d.keys(ctx, "/registry/secrets/"+namespace+"/")
		if err != nil {
			return err
		}
		maps, err := d.keys(ctx, "/registry/configmaps/"+namespace+"/")
		if err == nil && secrets+maps != 1 {
			err = fmt.Errorf("%d Secrets and %d ConfigMaps are left", secrets, maps)
		}
		return err
	}); err != nil {
		return "", err
	}
	_, err := d.create(ctx, namespace, "late", "0")
	if err := expect("a creation in a namespace that goes", err, apierrors.IsForbidden); err != nil {
		return "", err
	}
	if _, err := d.client.CoreV1().ConfigMaps(namespace).Patch(ctx, "d-0", mergePatch,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		return "", err
	}
	err = until(ctx, 90*time.Second, "the namespace is gone", func(ctx context.Context) error {
		_, err := d.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return expect("a read of it", err, apierrors.IsNotFound)
	})
	if err != nil {
		return "", err
	}
	// In another namespace nothing has changed.
	return fmt.Sprintf("%d objects in %.1f s", 2*count, time.Since(began).Seconds()), d.verify(ctx, d.bulk.namespace, d.bulk.objects)
}

func kubectl(ctx context.Context, d *driver) (string, error) {
	manifest := `{"apiVersion":"v1","kind":"List","items":[
		{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"by-hand"}},
		{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"one","namespace":"by-hand"},"data":{"n":"1"}}]}`
	commands := []struct{ args, want string }{
		{"apply --server-side -f -", "configmap/one serverside-applied"},
		{"get configmap one -n by-hand -o jsonpath={.data.n}", "1"},
		{"get configmaps -n bulk --chunk-size=300 -o name", "configmap/cm-00000"},
		{"patch configmap one -n by-hand --type=merge -p {\"data\":{\"n\":\"2\"}}", "configmap/one patched"},
		{"wait configmap/one -n by-hand --for=jsonpath={.data.n}=2 --timeout=10s", "configmap/one condition met"},
		{"delete namespace by-hand --wait --timeout=60s", "namespace \"by-hand\" deleted"},
		{"get --raw /readyz?verbose", "[+]etcd ok"},
	}
	for _, command := range commands {
		cmd := exec.CommandContext(ctx, d.options.program("kubectl"), strings.Fields(command.args)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+d.path("kubeconfig"), "HOME="+d.dir)
		cmd.Stdin = bytes.NewBufferString(manifest)
		output, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(output), command.want) {
			return "", fmt.Errorf("kubectl %s: %v, it printed: %.300s", command.args, err, output)
		}
	}
	return fmt.Sprintf("%d commands", len(commands)), nil
}
