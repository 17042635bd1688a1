# Run by the image of PostgreSQL once, when its data folder is empty. psql quotes the values, so that they are data.
# shellcheck shell=bash
for name in airflow mlflow; do
  if [ "$name" = airflow ]; then password=$AIRFLOW_PASSWORD; else password=$MLFLOW_PASSWORD; fi
  psql --no-psqlrc -v ON_ERROR_STOP=1 -v name="$name" -v password="$password" --username postgres <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
SQL
done
