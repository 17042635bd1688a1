#!/usr/bin/env bash
# A cluster on this machine with all of Sluice: `docker/kind.sh up [kubernetes|celery]` (Airflow's executor), `docker/kind.sh down`.
# `make kind-up` and `make kind-down` call it.
# Running `up` again brings what changed: images, manifests, Airflow's settings. Its passwords are those of docker/.env.
set -euo pipefail
cd "$(dirname "$0")/.."
cluster=sluice
chart=1.22.0
tag=kind
kubectl=(kubectl --context "kind-$cluster")

say() { echo "sluice: $*" >&2; }

need() {
  local missing=0
  while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null || { say "$1 is not installed; get it from $2"; missing=1; }
    shift 2
  done
  [ $missing -eq 0 ] || exit 1
}

# A Secret from lines `key=value` on standard input: no value stands on a command line.
secret() {
  "${kubectl[@]}" create secret generic "$2" --namespace "$1" --from-env-file=/dev/stdin --dry-run=client --output yaml |
    "${kubectl[@]}" apply --filename - >/dev/null
}

make_secrets() {
  python3 docker/make_env.py
  # shellcheck source=/dev/null
  . docker/.env
  local database="$AIRFLOW_DB_PASSWORD@postgres.sluice.svc:5432/airflow" store=http://store.sluice.svc:7070
  secret sluice sluice-store <<END
AWS_ACCESS_KEY_ID=$STORE_ACCESS_KEY
AWS_SECRET_ACCESS_KEY=$STORE_SECRET_KEY
AWS_DEFAULT_REGION=us-east-1
MLFLOW_S3_ENDPOINT_URL=$store
SLUICE_CONN_STORE={"conn_type": "aws", "login": "$STORE_ACCESS_KEY", "password": "$STORE_SECRET_KEY", "extra": {"endpoint_url": "$store", "region_name": "us-east-1"}}
END
  secret sluice sluice-postgres <<END
password=$POSTGRES_PASSWORD
airflow=$AIRFLOW_DB_PASSWORD
mlflow=$MLFLOW_DB_PASSWORD
END
  secret sluice sluice-mlflow <<END
database=postgresql+psycopg://mlflow:$MLFLOW_DB_PASSWORD@postgres.sluice.svc:5432/mlflow
END
  secret airflow airflow-metadata <<END
connection=postgresql+psycopg2://airflow:$database
END
  secret airflow airflow-keys <<END
fernet-key=$AIRFLOW_FERNET_KEY
api-secret-key=$AIRFLOW_API_SECRET_KEY
jwt-secret=$AIRFLOW_JWT_SECRET
END
  secret airflow airflow-connections <<END
AIRFLOW_CONN_SLUICE_PRIVACY={"conn_type": "generic", "password": "$PRIVACY_KEY"}
AIRFLOW_CONN_STORE={"conn_type": "aws", "login": "$STORE_ACCESS_KEY", "password": "$STORE_SECRET_KEY", "extra": {"endpoint_url": "$store", "region_name": "us-east-1"}}
END
}

up() {
  local executor=$1
  need docker https://docs.docker.com/engine/install kind https://kind.sigs.k8s.io/docs/user/quick-start \
    kubectl https://kubernetes.io/docs/tasks/tools helm https://helm.sh/docs/intro/install python3 https://www.python.org/downloads
  docker info >/dev/null 2>&1 || { say "Docker's engine does not answer; start it, or add yourself to its group, and try again"; exit 1; }
  kind get clusters 2>/dev/null | grep -qx "$cluster" || kind create cluster --name "$cluster" --wait 120s
  local target
  for target in airflow job serving; do
    docker build --file docker/Dockerfile --target "$target" --tag "sluice/$target:$tag" .
    kind load docker-image "sluice/$target:$tag" --name "$cluster"
  done
  "${kubectl[@]}" apply --filename docker/cluster/base/namespaces.yaml
  make_secrets
  "${kubectl[@]}" apply --kustomize docker/cluster/overlays/kind
  local name
  for name in postgres store mlflow; do
    "${kubectl[@]}" rollout status --namespace sluice "deployment/$name" --timeout 300s
  done
  helm upgrade --install airflow airflow --repo https://airflow.apache.org --version "$chart" --kube-context "kind-$cluster" \
    --namespace airflow --values docker/cluster/airflow/values.yaml --values "docker/cluster/airflow/$executor-executor.yaml" \
    --set "defaultAirflowTag=$tag" --timeout 15m
  # Pods with a new image of the same tag start again.
  "${kubectl[@]}" rollout restart --namespace airflow deployment >/dev/null
  "${kubectl[@]}" rollout status --namespace airflow deployment/airflow-api-server --timeout 300s
  # shellcheck disable=SC2016 # the pod's shell reads the password
  sed -n 's/^AIRFLOW_ADMIN_PASSWORD=//p' docker/.env | "${kubectl[@]}" exec --stdin --namespace airflow deployment/airflow-api-server -- \
    sh -c 'read -r password; exec airflow users create --role Admin --username admin --email admin@localhost --firstname Sluice --lastname Admin --password "$password"'
  say "Airflow: kubectl --context kind-$cluster --namespace airflow port-forward service/airflow-api-server 8080, then http://127.0.0.1:8080 as admin with AIRFLOW_ADMIN_PASSWORD of docker/.env"
  say "MLflow:  kubectl --context kind-$cluster --namespace sluice port-forward service/mlflow 5000, then http://127.0.0.1:5000"
}

down() {
  need kind https://kind.sigs.k8s.io/docs/user/quick-start
  kind delete cluster --name "$cluster"
}

case "$*" in
  up) up kubernetes ;;
  "up kubernetes" | "up celery") up "$2" ;;
  down) down ;;
  *) say "usage: docker/kind.sh up [kubernetes|celery] | down"; exit 2 ;;
esac
