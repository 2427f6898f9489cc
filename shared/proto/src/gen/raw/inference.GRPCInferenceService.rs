/// Generated client implementations.
pub mod g_r_p_c_inference_service_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    #[derive(Debug, Clone)]
    pub struct GRPCInferenceServiceClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl<T> GRPCInferenceServiceClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> GRPCInferenceServiceClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            GRPCInferenceServiceClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        pub async fn server_live(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ServerLiveRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ServerLiveResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ServerLive",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("inference.GRPCInferenceService", "ServerLive"));
            self.inner.unary(req, path, codec).await
        }
        pub async fn server_ready(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ServerReadyRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ServerReadyResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ServerReady",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "ServerReady"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn model_ready(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ModelReadyRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelReadyResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ModelReady",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("inference.GRPCInferenceService", "ModelReady"));
            self.inner.unary(req, path, codec).await
        }
        pub async fn server_metadata(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ServerMetadataRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ServerMetadataResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ServerMetadata",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "ServerMetadata"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn model_metadata(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ModelMetadataRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelMetadataResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ModelMetadata",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "ModelMetadata"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn model_infer(
            &mut self,
            request: impl tonic::IntoRequest<bytes::Bytes>,
        ) -> std::result::Result<tonic::Response<bytes::Bytes>, tonic::Status> {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::BytesCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ModelInfer",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("inference.GRPCInferenceService", "ModelInfer"));
            self.inner.unary(req, path, codec).await
        }
        pub async fn model_stream_infer(
            &mut self,
            request: impl tonic::IntoStreamingRequest<Message = bytes::Bytes>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<bytes::Bytes>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::BytesCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ModelStreamInfer",
            );
            let mut req = request.into_streaming_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "ModelStreamInfer"),
                );
            self.inner.streaming(req, path, codec).await
        }
        pub async fn model_config(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ModelConfigRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelConfigResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ModelConfig",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "ModelConfig"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn model_statistics(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::ModelStatisticsRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelStatisticsResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/ModelStatistics",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "ModelStatistics"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn repository_index(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::RepositoryIndexRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::RepositoryIndexResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/RepositoryIndex",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "RepositoryIndex"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn repository_model_load(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::RepositoryModelLoadRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::RepositoryModelLoadResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/RepositoryModelLoad",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "RepositoryModelLoad",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn repository_model_unload(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::RepositoryModelUnloadRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::RepositoryModelUnloadResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/RepositoryModelUnload",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "RepositoryModelUnload",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn system_shared_memory_status(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::SystemSharedMemoryStatusRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::SystemSharedMemoryStatusResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "SystemSharedMemoryStatus",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn system_shared_memory_register(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::SystemSharedMemoryRegisterRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::SystemSharedMemoryRegisterResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "SystemSharedMemoryRegister",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn system_shared_memory_unregister(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::SystemSharedMemoryUnregisterRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::SystemSharedMemoryUnregisterResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/SystemSharedMemoryUnregister",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "SystemSharedMemoryUnregister",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn cuda_shared_memory_status(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::CudaSharedMemoryStatusRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::CudaSharedMemoryStatusResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/CudaSharedMemoryStatus",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "CudaSharedMemoryStatus",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn cuda_shared_memory_register(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::CudaSharedMemoryRegisterRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::CudaSharedMemoryRegisterResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/CudaSharedMemoryRegister",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "CudaSharedMemoryRegister",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn cuda_shared_memory_unregister(
            &mut self,
            request: impl tonic::IntoRequest<
                crate::inference::CudaSharedMemoryUnregisterRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::CudaSharedMemoryUnregisterResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/CudaSharedMemoryUnregister",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new(
                        "inference.GRPCInferenceService",
                        "CudaSharedMemoryUnregister",
                    ),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn trace_setting(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::TraceSettingRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::TraceSettingResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/TraceSetting",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "TraceSetting"),
                );
            self.inner.unary(req, path, codec).await
        }
        pub async fn log_settings(
            &mut self,
            request: impl tonic::IntoRequest<crate::inference::LogSettingsRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::LogSettingsResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = tonic_prost::ProstCodec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/inference.GRPCInferenceService/LogSettings",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(
                    GrpcMethod::new("inference.GRPCInferenceService", "LogSettings"),
                );
            self.inner.unary(req, path, codec).await
        }
    }
}
/// Generated server implementations.
pub mod g_r_p_c_inference_service_server {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    /// Generated trait containing gRPC methods that should be implemented for use with GRPCInferenceServiceServer.
    #[async_trait]
    pub trait GRPCInferenceService: std::marker::Send + std::marker::Sync + 'static {
        async fn server_live(
            &self,
            request: tonic::Request<crate::inference::ServerLiveRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ServerLiveResponse>,
            tonic::Status,
        >;
        async fn server_ready(
            &self,
            request: tonic::Request<crate::inference::ServerReadyRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ServerReadyResponse>,
            tonic::Status,
        >;
        async fn model_ready(
            &self,
            request: tonic::Request<crate::inference::ModelReadyRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelReadyResponse>,
            tonic::Status,
        >;
        async fn server_metadata(
            &self,
            request: tonic::Request<crate::inference::ServerMetadataRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ServerMetadataResponse>,
            tonic::Status,
        >;
        async fn model_metadata(
            &self,
            request: tonic::Request<crate::inference::ModelMetadataRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelMetadataResponse>,
            tonic::Status,
        >;
        async fn model_infer(
            &self,
            request: tonic::Request<bytes::Bytes>,
        ) -> std::result::Result<tonic::Response<bytes::Bytes>, tonic::Status>;
        /// Server streaming response type for the ModelStreamInfer method.
        type ModelStreamInferStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<bytes::Bytes, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        async fn model_stream_infer(
            &self,
            request: tonic::Request<tonic::Streaming<bytes::Bytes>>,
        ) -> std::result::Result<
            tonic::Response<Self::ModelStreamInferStream>,
            tonic::Status,
        >;
        async fn model_config(
            &self,
            request: tonic::Request<crate::inference::ModelConfigRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelConfigResponse>,
            tonic::Status,
        >;
        async fn model_statistics(
            &self,
            request: tonic::Request<crate::inference::ModelStatisticsRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::ModelStatisticsResponse>,
            tonic::Status,
        >;
        async fn repository_index(
            &self,
            request: tonic::Request<crate::inference::RepositoryIndexRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::RepositoryIndexResponse>,
            tonic::Status,
        >;
        async fn repository_model_load(
            &self,
            request: tonic::Request<crate::inference::RepositoryModelLoadRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::RepositoryModelLoadResponse>,
            tonic::Status,
        >;
        async fn repository_model_unload(
            &self,
            request: tonic::Request<crate::inference::RepositoryModelUnloadRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::RepositoryModelUnloadResponse>,
            tonic::Status,
        >;
        async fn system_shared_memory_status(
            &self,
            request: tonic::Request<crate::inference::SystemSharedMemoryStatusRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::SystemSharedMemoryStatusResponse>,
            tonic::Status,
        >;
        async fn system_shared_memory_register(
            &self,
            request: tonic::Request<crate::inference::SystemSharedMemoryRegisterRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::SystemSharedMemoryRegisterResponse>,
            tonic::Status,
        >;
        async fn system_shared_memory_unregister(
            &self,
            request: tonic::Request<
                crate::inference::SystemSharedMemoryUnregisterRequest,
            >,
        ) -> std::result::Result<
            tonic::Response<crate::inference::SystemSharedMemoryUnregisterResponse>,
            tonic::Status,
        >;
        async fn cuda_shared_memory_status(
            &self,
            request: tonic::Request<crate::inference::CudaSharedMemoryStatusRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::CudaSharedMemoryStatusResponse>,
            tonic::Status,
        >;
        async fn cuda_shared_memory_register(
            &self,
            request: tonic::Request<crate::inference::CudaSharedMemoryRegisterRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::CudaSharedMemoryRegisterResponse>,
            tonic::Status,
        >;
        async fn cuda_shared_memory_unregister(
            &self,
            request: tonic::Request<crate::inference::CudaSharedMemoryUnregisterRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::CudaSharedMemoryUnregisterResponse>,
            tonic::Status,
        >;
        async fn trace_setting(
            &self,
            request: tonic::Request<crate::inference::TraceSettingRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::TraceSettingResponse>,
            tonic::Status,
        >;
        async fn log_settings(
            &self,
            request: tonic::Request<crate::inference::LogSettingsRequest>,
        ) -> std::result::Result<
            tonic::Response<crate::inference::LogSettingsResponse>,
            tonic::Status,
        >;
    }
    #[derive(Debug)]
    pub struct GRPCInferenceServiceServer<T> {
        inner: Arc<T>,
        accept_compression_encodings: EnabledCompressionEncodings,
        send_compression_encodings: EnabledCompressionEncodings,
        max_decoding_message_size: Option<usize>,
        max_encoding_message_size: Option<usize>,
    }
    impl<T> GRPCInferenceServiceServer<T> {
        pub fn new(inner: T) -> Self {
            Self::from_arc(Arc::new(inner))
        }
        pub fn from_arc(inner: Arc<T>) -> Self {
            Self {
                inner,
                accept_compression_encodings: Default::default(),
                send_compression_encodings: Default::default(),
                max_decoding_message_size: None,
                max_encoding_message_size: None,
            }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> InterceptedService<Self, F>
        where
            F: tonic::service::Interceptor,
        {
            InterceptedService::new(Self::new(inner), interceptor)
        }
        /// Enable decompressing requests with the given encoding.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.accept_compression_encodings.enable(encoding);
            self
        }
        /// Compress responses with the given encoding, if the client supports it.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.send_compression_encodings.enable(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.max_decoding_message_size = Some(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.max_encoding_message_size = Some(limit);
            self
        }
    }
    impl<T, B> tonic::codegen::Service<http::Request<B>>
    for GRPCInferenceServiceServer<T>
    where
        T: GRPCInferenceService,
        B: Body + std::marker::Send + 'static,
        B::Error: Into<StdError> + std::marker::Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<std::result::Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: http::Request<B>) -> Self::Future {
            match req.uri().path() {
                "/inference.GRPCInferenceService/ServerLive" => {
                    #[allow(non_camel_case_types)]
                    struct ServerLiveSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::ServerLiveRequest>
                    for ServerLiveSvc<T> {
                        type Response = crate::inference::ServerLiveResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<crate::inference::ServerLiveRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::server_live(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ServerLiveSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ServerReady" => {
                    #[allow(non_camel_case_types)]
                    struct ServerReadySvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::ServerReadyRequest>
                    for ServerReadySvc<T> {
                        type Response = crate::inference::ServerReadyResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<crate::inference::ServerReadyRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::server_ready(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ServerReadySvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ModelReady" => {
                    #[allow(non_camel_case_types)]
                    struct ModelReadySvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::ModelReadyRequest>
                    for ModelReadySvc<T> {
                        type Response = crate::inference::ModelReadyResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<crate::inference::ModelReadyRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::model_ready(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ModelReadySvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ServerMetadata" => {
                    #[allow(non_camel_case_types)]
                    struct ServerMetadataSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::ServerMetadataRequest,
                    > for ServerMetadataSvc<T> {
                        type Response = crate::inference::ServerMetadataResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::ServerMetadataRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::server_metadata(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ServerMetadataSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ModelMetadata" => {
                    #[allow(non_camel_case_types)]
                    struct ModelMetadataSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::ModelMetadataRequest>
                    for ModelMetadataSvc<T> {
                        type Response = crate::inference::ModelMetadataResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::ModelMetadataRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::model_metadata(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ModelMetadataSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ModelInfer" => {
                    #[allow(non_camel_case_types)]
                    struct ModelInferSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<bytes::Bytes> for ModelInferSvc<T> {
                        type Response = bytes::Bytes;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<bytes::Bytes>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::model_infer(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ModelInferSvc(inner);
                        let codec = crate::codec::BytesCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ModelStreamInfer" => {
                    #[allow(non_camel_case_types)]
                    struct ModelStreamInferSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::StreamingService<bytes::Bytes>
                    for ModelStreamInferSvc<T> {
                        type Response = bytes::Bytes;
                        type ResponseStream = T::ModelStreamInferStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<tonic::Streaming<bytes::Bytes>>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::model_stream_infer(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ModelStreamInferSvc(inner);
                        let codec = crate::codec::BytesCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ModelConfig" => {
                    #[allow(non_camel_case_types)]
                    struct ModelConfigSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::ModelConfigRequest>
                    for ModelConfigSvc<T> {
                        type Response = crate::inference::ModelConfigResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<crate::inference::ModelConfigRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::model_config(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ModelConfigSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/ModelStatistics" => {
                    #[allow(non_camel_case_types)]
                    struct ModelStatisticsSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::ModelStatisticsRequest,
                    > for ModelStatisticsSvc<T> {
                        type Response = crate::inference::ModelStatisticsResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::ModelStatisticsRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::model_statistics(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ModelStatisticsSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/RepositoryIndex" => {
                    #[allow(non_camel_case_types)]
                    struct RepositoryIndexSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::RepositoryIndexRequest,
                    > for RepositoryIndexSvc<T> {
                        type Response = crate::inference::RepositoryIndexResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::RepositoryIndexRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::repository_index(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = RepositoryIndexSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/RepositoryModelLoad" => {
                    #[allow(non_camel_case_types)]
                    struct RepositoryModelLoadSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::RepositoryModelLoadRequest,
                    > for RepositoryModelLoadSvc<T> {
                        type Response = crate::inference::RepositoryModelLoadResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::RepositoryModelLoadRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::repository_model_load(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = RepositoryModelLoadSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/RepositoryModelUnload" => {
                    #[allow(non_camel_case_types)]
                    struct RepositoryModelUnloadSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::RepositoryModelUnloadRequest,
                    > for RepositoryModelUnloadSvc<T> {
                        type Response = crate::inference::RepositoryModelUnloadResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::RepositoryModelUnloadRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::repository_model_unload(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = RepositoryModelUnloadSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/SystemSharedMemoryStatus" => {
                    #[allow(non_camel_case_types)]
                    struct SystemSharedMemoryStatusSvc<T: GRPCInferenceService>(
                        pub Arc<T>,
                    );
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::SystemSharedMemoryStatusRequest,
                    > for SystemSharedMemoryStatusSvc<T> {
                        type Response = crate::inference::SystemSharedMemoryStatusResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::SystemSharedMemoryStatusRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::system_shared_memory_status(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SystemSharedMemoryStatusSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/SystemSharedMemoryRegister" => {
                    #[allow(non_camel_case_types)]
                    struct SystemSharedMemoryRegisterSvc<T: GRPCInferenceService>(
                        pub Arc<T>,
                    );
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::SystemSharedMemoryRegisterRequest,
                    > for SystemSharedMemoryRegisterSvc<T> {
                        type Response = crate::inference::SystemSharedMemoryRegisterResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::SystemSharedMemoryRegisterRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::system_shared_memory_register(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SystemSharedMemoryRegisterSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/SystemSharedMemoryUnregister" => {
                    #[allow(non_camel_case_types)]
                    struct SystemSharedMemoryUnregisterSvc<T: GRPCInferenceService>(
                        pub Arc<T>,
                    );
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::SystemSharedMemoryUnregisterRequest,
                    > for SystemSharedMemoryUnregisterSvc<T> {
                        type Response = crate::inference::SystemSharedMemoryUnregisterResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::SystemSharedMemoryUnregisterRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::system_shared_memory_unregister(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = SystemSharedMemoryUnregisterSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/CudaSharedMemoryStatus" => {
                    #[allow(non_camel_case_types)]
                    struct CudaSharedMemoryStatusSvc<T: GRPCInferenceService>(
                        pub Arc<T>,
                    );
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::CudaSharedMemoryStatusRequest,
                    > for CudaSharedMemoryStatusSvc<T> {
                        type Response = crate::inference::CudaSharedMemoryStatusResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::CudaSharedMemoryStatusRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::cuda_shared_memory_status(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = CudaSharedMemoryStatusSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/CudaSharedMemoryRegister" => {
                    #[allow(non_camel_case_types)]
                    struct CudaSharedMemoryRegisterSvc<T: GRPCInferenceService>(
                        pub Arc<T>,
                    );
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::CudaSharedMemoryRegisterRequest,
                    > for CudaSharedMemoryRegisterSvc<T> {
                        type Response = crate::inference::CudaSharedMemoryRegisterResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::CudaSharedMemoryRegisterRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::cuda_shared_memory_register(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = CudaSharedMemoryRegisterSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/CudaSharedMemoryUnregister" => {
                    #[allow(non_camel_case_types)]
                    struct CudaSharedMemoryUnregisterSvc<T: GRPCInferenceService>(
                        pub Arc<T>,
                    );
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<
                        crate::inference::CudaSharedMemoryUnregisterRequest,
                    > for CudaSharedMemoryUnregisterSvc<T> {
                        type Response = crate::inference::CudaSharedMemoryUnregisterResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::CudaSharedMemoryUnregisterRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::cuda_shared_memory_unregister(
                                        &inner,
                                        request,
                                    )
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = CudaSharedMemoryUnregisterSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/TraceSetting" => {
                    #[allow(non_camel_case_types)]
                    struct TraceSettingSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::TraceSettingRequest>
                    for TraceSettingSvc<T> {
                        type Response = crate::inference::TraceSettingResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<
                                crate::inference::TraceSettingRequest,
                            >,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::trace_setting(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = TraceSettingSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/inference.GRPCInferenceService/LogSettings" => {
                    #[allow(non_camel_case_types)]
                    struct LogSettingsSvc<T: GRPCInferenceService>(pub Arc<T>);
                    impl<
                        T: GRPCInferenceService,
                    > tonic::server::UnaryService<crate::inference::LogSettingsRequest>
                    for LogSettingsSvc<T> {
                        type Response = crate::inference::LogSettingsResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<crate::inference::LogSettingsRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as GRPCInferenceService>::log_settings(&inner, request)
                                    .await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = LogSettingsSvc(inner);
                        let codec = tonic_prost::ProstCodec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                _ => {
                    Box::pin(async move {
                        let mut response = http::Response::new(
                            tonic::body::Body::default(),
                        );
                        let headers = response.headers_mut();
                        headers
                            .insert(
                                tonic::Status::GRPC_STATUS,
                                (tonic::Code::Unimplemented as i32).into(),
                            );
                        headers
                            .insert(
                                http::header::CONTENT_TYPE,
                                tonic::metadata::GRPC_CONTENT_TYPE,
                            );
                        Ok(response)
                    })
                }
            }
        }
    }
    impl<T> Clone for GRPCInferenceServiceServer<T> {
        fn clone(&self) -> Self {
            let inner = self.inner.clone();
            Self {
                inner,
                accept_compression_encodings: self.accept_compression_encodings,
                send_compression_encodings: self.send_compression_encodings,
                max_decoding_message_size: self.max_decoding_message_size,
                max_encoding_message_size: self.max_encoding_message_size,
            }
        }
    }
    /// Generated gRPC service name
    pub const SERVICE_NAME: &str = "inference.GRPCInferenceService";
    impl<T> tonic::server::NamedService for GRPCInferenceServiceServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
